-- The clock of Redis, in milliseconds since 1970: the same for every process.

local function now()
  local time = redis.call('TIME')
  return time[1] * 1000 + math.floor(time[2] / 1000)
end

-- A time `ms` from now, as text. Lua's own conversion would round it.
local function after(ms) return string.format('%.0f', now() + tonumber(ms)) end
