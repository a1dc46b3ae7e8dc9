-- Registrations of live services. Needs clock.lua and cut_over_record.lua.
--
-- KEYS: one service's registration, the ids of services, the cut-over's record. ARGV: a command, the
-- service's id, then what the command takes.

local REGISTRATION, SERVICES, CUT_OVER = KEYS[1], KEYS[2], KEYS[3]
local commands = {}

-- Forget services that ended without leaving.
local function drop_dead(prefix)
  for _, id in ipairs(redis.call('SMEMBERS', SERVICES)) do
    if redis.call('EXISTS', prefix .. id) == 0 then redis.call('SREM', SERVICES, id) end
  end
end

-- Register for `lifetime_ms`. Returns 0 for a new service while a cut-over runs in which it takes no part.
function commands.renew(id, record, lifetime_ms)
  if redis.call('EXISTS', REGISTRATION) == 0 then
    if running(CUT_OVER) and redis.call('HEXISTS', CUT_OVER, SERVER .. id) == 0 then return 0 end
    drop_dead(REGISTRATION:sub(1, #REGISTRATION - #id))
  end
  redis.call('SET', REGISTRATION, record, 'PX', lifetime_ms)
  redis.call('SADD', SERVICES, id)
  return 1
end

function commands.leave(id)
  redis.call('DEL', REGISTRATION)
  redis.call('SREM', SERVICES, id)
  redis.call('HDEL', CUT_OVER, SERVER .. id)
  return 1
end

return commands[ARGV[1]](unpack(ARGV, 2))
