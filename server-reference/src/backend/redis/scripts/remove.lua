-- KEYS: meta, log, snapshot, index. ARGV: name, generation; epoch, seq, tag
local meta = read(KEYS, ARGV[1], tonumber(ARGV[2]))
if meta.s > 0 and meta.e == tonumber(ARGV[3]) and meta.s == tonumber(ARGV[4]) and meta.t == ARGV[5] then
  bury(KEYS, ARGV[1], meta)
end
return true
