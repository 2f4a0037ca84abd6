-- A sliding window in 16 slots of the engine's time, each counted until it has left the window whole.
-- KEYS: hash of slots. ARGV: limit, cost, length of a slot in microseconds
local limit, cost, length = tonumber(ARGV[1]), tonumber(ARGV[2]), tonumber(ARGV[3])
local time = redis.call('TIME')
local micros = tonumber(time[1]) * 1000000 + tonumber(time[2])
local slot, used, slots = math.floor(micros / length), 0, {}
local all = redis.call('HGETALL', KEYS[1])
for i = 1, #all, 2 do
  local at, granted = tonumber(all[i]), tonumber(all[i + 1])
  if at + 16 < slot then
    redis.call('HDEL', KEYS[1], all[i])
  else
    used = used + granted
    slots[#slots + 1] = { at, granted }
  end
end
local left = math.max(limit - used, 0)
if cost <= left then
  redis.call('HINCRBY', KEYS[1], string.format('%.0f', slot), cost)
  redis.call('PEXPIRE', KEYS[1], math.ceil(length * 18 / 1000))
  return { 1, left - cost, 0 }
end
table.sort(slots, function(a, b) return a[1] < b[1] end)
local free = left
for _, one in ipairs(slots) do
  free = free + one[2]
  if free >= cost then return { 0, left, math.max((one[1] + 17) * length - micros, 1) } end
end
return { 0, left, -1 }
