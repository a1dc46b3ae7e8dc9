-- Save a watch's record, unless a record of a higher rank is there. KEYS: the hash. ARGV: version, record,
-- its rank, how many records stay: the newest.
--
-- Ranks: 0 watching, 1 left, 2 passed or unjudged, 3 rolled back. A watch that was left may start again.

local before = redis.call('HGET', KEYS[1], ARGV[1])
local rank = tonumber(ARGV[3])
if before then
  local known = cjson.decode(before)['rank']
  if known > rank and not (known == 1 and rank == 0) then return 0 end
end
redis.call('HSET', KEYS[1], ARGV[1], ARGV[2])
local over = redis.call('HLEN', KEYS[1]) - tonumber(ARGV[4])
if over > 0 then
  local at, versions, fields = {}, {}, redis.call('HGETALL', KEYS[1])
  for i = 1, #fields, 2 do
    versions[#versions + 1] = fields[i]
    at[fields[i]] = cjson.decode(fields[i + 1])['at']
  end
  table.sort(versions, function(a, b) return at[a] < at[b] end)
  for i = 1, over do redis.call('HDEL', KEYS[1], versions[i]) end
end
return 1
