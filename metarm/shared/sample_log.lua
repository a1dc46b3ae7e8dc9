-- Append one request's groups, all or none, and only the first time its id is seen. Returns how many.
-- KEYS: the stream, the request's marker. ARGV: the marker's lifetime in seconds, then k, data per group.

if redis.call('EXISTS', KEYS[2]) == 1 then return 0 end
for i = 2, #ARGV, 2 do redis.call('XADD', KEYS[1], '*', 'k', ARGV[i], 'data', ARGV[i + 1]) end
redis.call('SET', KEYS[2], '1', 'EX', ARGV[1]) -- last: an append that fails can be repeated
return (#ARGV - 1) / 2
