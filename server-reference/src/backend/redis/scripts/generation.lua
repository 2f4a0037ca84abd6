-- The generation of a store: the epoch that all lives are above. Begins another one if the store may have lost entries:
-- if a master is not one of the runs that were known.
-- KEYS: hash {life, id, partitions}. ARGV: runs of all masters, epoch of a new generation, partitions, '1' if durable
local life, id = unpack(redis.call('HMGET', KEYS[1], 'life', 'id'))
local partitions = redis.call('HGET', KEYS[1], 'partitions')
if partitions and partitions ~= ARGV[3] then return { '-1', partitions } end
if not life then
  redis.call('HSET', KEYS[1], 'life', '0', 'id', ARGV[1], 'partitions', ARGV[3])
  return { '0', ARGV[3] }
end
if id ~= ARGV[1] then
  local known = true
  for run in string.gmatch(ARGV[1], '%S+') do
    known = known and string.find(' ' .. (id or '') .. ' ', ' ' .. run .. ' ', 1, true)
  end
  redis.call('HSET', KEYS[1], 'id', ARGV[1])
  if not known and ARGV[4] ~= '1' then
    life = string.format('%.0f', math.max(tonumber(life) + 1, tonumber(ARGV[2])))
    redis.call('HSET', KEYS[1], 'life', life)
  end
end
return { life, ARGV[3] }
