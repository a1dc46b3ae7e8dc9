-- The cut-over: one record that changes only by these commands. Needs clock.lua and cut_over_record.lua.
--
-- KEYS: the record, the ids of services, the prefix of their registrations, the channel of notices.
-- ARGV: a command, the cut-over's id, then what the command takes. Every command returns the record: field,
-- value, field, …, with `running` as '1' or '0', and with `lost` as the state of each server whose
-- registration has expired. Returns nothing if there is no record.

local RECORD, SERVICES, REGISTRATION, NOTICES = KEYS[1], KEYS[2], KEYS[3], KEYS[4]

local function is_live(server) return redis.call('EXISTS', REGISTRATION .. server) == 1 end
local function get(field) return redis.call('HGET', RECORD, field) end

local function server_of(field)
  if string.sub(field, 1, #SERVER) == SERVER then return string.sub(field, #SERVER + 1) end
end

local function read()
  local record = redis.call('HGETALL', RECORD)
  if #record == 0 then return false end
  for i = 1, #record, 2 do
    local server = server_of(record[i])
    if server and not is_live(server) then record[i + 1] = 'lost' end
  end
  record[#record + 1] = 'running'
  record[#record + 1] = running(RECORD) and '1' or '0'
  return record
end

local function live_services()
  local live = {}
  for _, id in ipairs(redis.call('SMEMBERS', SERVICES)) do
    if is_live(id) then
      live[#live + 1] = id
    else
      redis.call('SREM', SERVICES, id)
    end
  end
  return live
end

local commands = {}

function commands.state() return read() end

-- Start a cut-over in which all live servers take part, unless another one is running.
function commands.begin(id, version, coordinator, lease_ms, keep_s)
  if get('id') == id or running(RECORD) then return read() end
  local live = live_services()
  if #live == 0 then return false end
  redis.call('DEL', RECORD)
  redis.call('HSET', RECORD, 'id', id, 'version', version, 'coordinator', coordinator,
    'phase', 'prepare', 'reason', '', 'until', after(lease_ms))
  for _, server in ipairs(live) do redis.call('HSET', RECORD, SERVER .. server, '') end
  redis.call('EXPIRE', RECORD, keep_s)
  redis.call('PUBLISH', NOTICES, 'prepare')
  return read()
end

-- Renew the coordinator's lease.
function commands.keep(id, lease_ms)
  if get('id') == id and get('phase') == 'prepare' and running(RECORD) then
    redis.call('HSET', RECORD, 'until', after(lease_ms))
  end
  return read()
end

-- Go from one phase to the next, unless another process was faster. A hold leaves out lost servers and
-- starts only when all others are ready.
function commands.move(id, from, to, reason, lease_ms)
  if get('id') ~= id or get('phase') ~= from then return read() end
  if to == 'hold' then
    if not running(RECORD) then return read() end
    local record = read()
    for i = 1, #record, 2 do
      if server_of(record[i]) then
        if record[i + 1] == 'lost' then
          redis.call('HDEL', RECORD, record[i])
        elseif record[i + 1] ~= 'ready' then
          return record
        end
      end
    end
  end
  redis.call('HSET', RECORD, 'phase', to, 'reason', reason, 'until', after(lease_ms))
  redis.call('PUBLISH', NOTICES, to)
  return read()
end

-- Set one participant's state, if the cut-over is still in `phase`.
function commands.report(id, phase, server, state)
  if get('id') == id and get('phase') == phase and redis.call('HEXISTS', RECORD, SERVER .. server) == 1 then
    redis.call('HSET', RECORD, SERVER .. server, state)
  end
  return read()
end

return commands[ARGV[1]](unpack(ARGV, 2))
