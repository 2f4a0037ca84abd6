-- KEYS: meta, log, snapshot, index. ARGV: name, generation; epoch, seq, tag; entries to keep before it; bytes
local meta = read(KEYS, ARGV[1], tonumber(ARGV[2]))
local seq = tonumber(ARGV[4])
if meta.s == 0 or meta.e ~= tonumber(ARGV[3]) or seq > meta.s or seq <= meta.n then return false end
local first = meta.s - redis.call('LLEN', KEYS[2])
local tag = meta.t
if seq < meta.s then
  local entry = seq > first and redis.call('LINDEX', KEYS[2], seq - first - 1)
  if not entry then return false end
  tag = string.sub(entry, 1, 16)
end
if tag ~= ARGV[5] then return false end
redis.call('SET', KEYS[3], ARGV[7])
redis.call('HSET', KEYS[1], 'n', digits(seq))
if meta.x > 0 then redis.call('PEXPIREAT', KEYS[3], digits(meta.x + 60000)) end
local forget = seq - tonumber(ARGV[6]) - first
if forget > 0 then redis.call('LTRIM', KEYS[2], digits(forget), -1) end
return true
