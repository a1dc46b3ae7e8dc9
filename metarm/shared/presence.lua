-- The one trainer's place. KEYS: the place, a JSON object with a `holder`. ARGV: a command, the holder, then
-- what the command takes.

local PLACE = KEYS[1]

local function is_free_for(holder)
  local held = redis.call('GET', PLACE)
  return not held or cjson.decode(held)['holder'] == holder
end

local commands = {}

-- Take or renew the place. Returns 0 while another trainer holds it.
function commands.hold(holder, status, lifetime_ms)
  if not is_free_for(holder) then return 0 end
  redis.call('SET', PLACE, status, 'PX', lifetime_ms)
  return 1
end

-- Free the place if `holder` still holds it.
function commands.release(holder)
  if is_free_for(holder) then redis.call('DEL', PLACE) end
  return 1
end

return commands[ARGV[1]](unpack(ARGV, 2))
