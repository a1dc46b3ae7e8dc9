-- Save a watch's record, unless a record of a higher rank is there. KEYS: the hash. ARGV: version, record,
-- its rank.
--
-- Ranks: 0 watching, 1 left, 2 passed or unjudged, 3 rolled back. A watch that was left may start again.

local before = redis.call('HGET', KEYS[1], ARGV[1])
local rank = tonumber(ARGV[3])
if before then
  local known = cjson.decode(before)['rank']
  if known > rank and not (known == 1 and rank == 0) then return 0 end
end
redis.call('HSET', KEYS[1], ARGV[1], ARGV[2])
return 1
