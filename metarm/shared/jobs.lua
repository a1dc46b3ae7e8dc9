-- Retrain jobs: a record per job, and one slot for the job that is queued or running.
--
-- ARGV: a command, then what the command takes.

local SLOT, RECORD = KEYS[1], KEYS[2]
local commands = {}

-- Take the slot and write the record. KEYS: slot, record, index by time. Returns the job that has the slot.
-- A job without a record, such as one that a full Redis evicted, does not hold the slot. Only the newest `keep`
-- jobs stay.
function commands.create(id, record, created, keep)
  local active = redis.call('GET', SLOT)
  local prefix = RECORD:sub(1, #RECORD - #id)
  if active and redis.call('EXISTS', prefix .. active) == 1 then return active end
  redis.call('SET', SLOT, id)
  redis.call('SET', RECORD, record)
  redis.call('ZADD', KEYS[3], created, id)
  for _, old in ipairs(redis.call('ZRANGE', KEYS[3], 0, -keep - 1)) do
    if old ~= id then -- by another clock, even the new job may seem old
      redis.call('DEL', prefix .. old)
      redis.call('ZREM', KEYS[3], old)
    end
  end
  return false
end

-- Write the last state. Free the slot and count the end if this job still has the slot.
-- KEYS: slot, record, counts by status.
function commands.finish(id, record, keep_s, status)
  redis.call('SET', RECORD, record, 'EX', keep_s)
  if redis.call('GET', SLOT) == id then
    redis.call('DEL', SLOT)
    redis.call('HINCRBY', KEYS[3], status, 1)
  end
  return 1
end

return commands[ARGV[1]](unpack(ARGV, 2))
