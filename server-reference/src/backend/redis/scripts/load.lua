-- KEYS: meta, log, snapshot, index. ARGV: name, generation; where the reader is: epoch, seq, tag, hash (or none)
local meta = read(KEYS, ARGV[1], tonumber(ARGV[2]))
if meta.s == 0 then return false end
if ARGV[3] and meta.e == tonumber(ARGV[3]) then
  local missed = meta.s - tonumber(ARGV[4])
  if missed == 0 and meta.t == ARGV[5] then return { 'since', {} } end
  if missed > 0 and missed <= redis.call('LLEN', KEYS[2]) then
    local entries = newest(KEYS, missed)
    if string.sub(entries[1], 17, 24) == ARGV[6] then return { 'since', entries } end
  end
end
local snapshot = meta.n >= 0 and redis.call('GET', KEYS[3])
return { 'whole', digits(meta.e), digits(meta.s), meta.t, digits(math.max(meta.n, 0)), snapshot,
  redis.call('LRANGE', KEYS[2], 0, -1) }
