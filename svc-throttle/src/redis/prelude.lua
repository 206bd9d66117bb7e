-- What all scripts on limits begin with. Doubles are exact for integers up to 2^53; what is rounded beyond is rounded so
-- that a limit is not exceeded.
-- ARGV: 1 the epoch, 2 Redis' time at which the caller's view of the nodes ends, 3 the time that counts where it is not
-- Redis' own (tests). KEYS: 1 the limit, 2 the epoch's (not in a Cluster, where it may be on another node).
local OK, EPOCH, LAPSED, LOST = 0, 1, 2, 3
local EXACT = 9007199254740992

local function time()
  local time = redis.call('TIME')
  return tonumber(time[1]) * 1000000 + tonumber(time[2])
end

local clock = time()
local now = tonumber(ARGV[3]) or clock
if KEYS[2] and redis.call('GET', KEYS[2]) ~= ARGV[1] then
  return {EPOCH}
end
if clock >= tonumber(ARGV[2]) then
  return {LAPSED}
end

local function number(place)
  return tonumber(ARGV[place])
end

local function floor_div(a, b)
  local floor = math.floor(a / b)
  if floor * b > a then
    floor = floor - 1
  end
  return floor
end

local function ceil_div(a, b)
  local ceil = math.ceil(a / b)
  if ceil * b < a then
    ceil = ceil + 1
  end
  return ceil
end

-- Keeps a key for so many microseconds more; with a time that is not Redis' own for long enough in any case.
local function lasting_ms(micros)
  if ARGV[3] ~= '' then
    micros = micros + 60000000
  end
  return math.min(math.ceil(micros / 1000), 300000000000)
end
