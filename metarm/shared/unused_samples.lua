-- One page of the sample stream, from the newest entry back, without the data of entries that nobody wants.
--
-- KEYS: the stream. ARGV: the newest and the oldest id, as XREVRANGE takes them; how many groups' data is wanted;
-- how readable data begins. The page ends after MOST_ENTRIES, MOST_BYTES, or the last wanted group.
--
-- Returns the newest and the oldest id of the page ('' if it is empty), 1 if it is the last one, how many of its
-- entries are groups of two or more responses, single responses and unreadable, and the data of the wanted groups.

local MOST_ENTRIES, MOST_BYTES, AT_ONCE = 1000, 2 * 1024 * 1024, 10
local STREAM, newest, OLDEST, WANTED, BEGINS = KEYS[1], ARGV[1], ARGV[2], tonumber(ARGV[3]), ARGV[4]

local groups, single, unreadable, found = 0, 0, 0, {}
local entries, bytes, first, last, ended = 0, 0, '', '', false

local function take(fields)
  local k, data
  for i = 1, #fields, 2 do
    if fields[i] == 'k' then k = fields[i + 1] elseif fields[i] == 'data' then data = fields[i + 1] end
  end
  bytes = bytes + #(data or '')
  if not (k and data and string.match(k, '^%d+$') and string.sub(data, 1, #BEGINS) == BEGINS) then
    unreadable = unreadable + 1
  elseif tonumber(k) < 2 then
    single = single + 1
  else
    groups = groups + 1
    if #found < WANTED then found[#found + 1] = data end
  end
end

local function full()
  return entries >= MOST_ENTRIES or bytes >= MOST_BYTES or (WANTED > 0 and #found == WANTED)
end

repeat
  local part = redis.call('XREVRANGE', STREAM, newest, OLDEST, 'COUNT', AT_ONCE)
  for _, entry in ipairs(part) do
    take(entry[2])
    entries, last = entries + 1, entry[1]
    if entries == 1 then first = last end
    if full() then break end
  end
  ended = #part < AT_ONCE and (#part == 0 or last == part[#part][1])
  newest = '(' .. last
until ended or full()
return {first, last, ended and 1 or 0, groups, single, unreadable, found}
