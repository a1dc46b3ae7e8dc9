-- The layout of the cut-over's record, for cut_over.lua and fleet.lua. Needs clock.lua.
--
-- A hash: id, version, coordinator, phase, reason, until, and one field `server:{id}` per participant.

local SERVER = 'server:'

-- The record counts as running until the time that its coordinator last set, so that a dead coordinator blocks
-- no other.
local function running(record)
  local phase = redis.call('HGET', record, 'phase')
  return (phase == 'prepare' or phase == 'hold') and now() <= tonumber(redis.call('HGET', record, 'until'))
end
