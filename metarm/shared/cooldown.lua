-- Record whether a run that drift started helped, once for each run, and set the pause that follows from it.
--
-- KEYS: the record, the pause. ARGV: the run's job, its creation (Unix, s), 1 if it helped, why (not), the version
-- whose drift started it, seconds since then, seconds of a pause, how often a pause may double.
-- Returns the number of runs in a row that did not help; false if this run or a later one is recorded. Only
-- a run that helped is judged again: its version may be rolled back later.

local id, created, helped, reason, version, passed, seconds, doublings = unpack(ARGV)
local known = redis.call('HMGET', KEYS[1], 'created', 'unhelpful')
local last, runs = tonumber(known[1] or 0), tonumber(known[2] or 0)
if last > tonumber(created) then return false end
if last == tonumber(created) and (runs > 0 or helped == '1') then return false end
local unhelpful = helped == '1' and 0 or runs + 1
redis.call('HSET', KEYS[1], 'job', id, 'created', created, 'unhelpful', unhelpful, 'reason', reason)
local left = seconds * 2 ^ math.min(unhelpful, tonumber(doublings)) - passed
if left >= 1 then
  redis.call('SET', KEYS[2], version, 'EX', string.format('%.0f', left))
else
  redis.call('DEL', KEYS[2])
end
return unhelpful
