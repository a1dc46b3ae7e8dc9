-- Leases: one hash, id → 'EXPIRY VERSION', the expiry in milliseconds of Redis's clock. A released lease
-- has '-' for its version until it expires. Needs clock.lua.
--
-- KEYS: the hash. ARGV: a command, then what the command takes. Every command first drops expired leases.

local LEASES, RELEASED, MOST_RELEASED = KEYS[1], '-', 1000

local now_ms = now()
local leases = {} -- id → {expiry, version}
local fields = redis.call('HGETALL', LEASES)
for i = 1, #fields, 2 do
  local expiry, version = string.match(fields[i + 1], '^(%d+) (.+)$')
  if tonumber(expiry) <= now_ms then
    redis.call('HDEL', LEASES, fields[i])
  else
    leases[fields[i]] = {tonumber(expiry), version}
  end
end

-- Write a lease. The key lives a second longer than the last lease.
local function put(id, expiry, version)
  leases[id] = {expiry, version}
  redis.call('HSET', LEASES, id, string.format('%.0f %s', expiry, version))
  local last = 0
  for _, lease in pairs(leases) do last = math.max(last, lease[1]) end
  redis.call('PEXPIRE', LEASES, string.format('%.0f', last - now_ms + 1000))
end

local function held(id)
  local lease = leases[id]
  if lease and lease[2] ~= RELEASED then return lease end
end

-- Bound the marks of released leases: a client may create and release many within the time that one would last.
local function drop_marks()
  local marks = {}
  for id, lease in pairs(leases) do
    if lease[2] == RELEASED then marks[#marks + 1] = id end
  end
  if #marks <= MOST_RELEASED then return end
  table.sort(marks, function(a, b) return leases[a][1] < leases[b][1] end)
  for i = 1, #marks - MOST_RELEASED do
    redis.call('HDEL', LEASES, marks[i])
    leases[marks[i]] = nil
  end
end

local commands = {}

-- Returns 'ok', or which limit is reached: 'leases' or 'versions'.
function commands.create(id, version, ms, most_leases, most_versions)
  local count, versions, seen = 0, 0, {}
  for other in pairs(leases) do
    local lease = held(other)
    if lease then
      count = count + 1
      if not seen[lease[2]] then versions, seen[lease[2]] = versions + 1, true end
    end
  end
  if count >= tonumber(most_leases) then return 'leases' end
  if not seen[version] and versions >= tonumber(most_versions) then return 'versions' end
  put(id, now_ms + tonumber(ms), version)
  return 'ok'
end

-- Write a lease unless it is known, held or released.
function commands.restore(id, version, ms)
  if not leases[id] then put(id, now_ms + tonumber(ms), version) end
end

-- Returns {ms left, version}, or {} if the lease is not held. Never shortens a lease.
function commands.renew(id, ms)
  local lease = held(id)
  if not lease then return {} end
  put(id, math.max(lease[1], now_ms + tonumber(ms)), lease[2])
  return {string.format('%.0f', leases[id][1] - now_ms), lease[2]}
end

-- Returns 1, or 0 if the lease is not held.
function commands.release(id)
  local lease = held(id)
  if not lease then return 0 end
  put(id, lease[1], RELEASED)
  drop_marks()
  return 1
end

-- Returns id, ms left, version, id, …; released leases included.
function commands.list()
  local found = {}
  for id, lease in pairs(leases) do
    table.insert(found, id)
    table.insert(found, string.format('%.0f', lease[1] - now_ms))
    table.insert(found, lease[2])
  end
  return found
end

return commands[ARGV[1]](unpack(ARGV, 2))
