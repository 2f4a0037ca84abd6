-- KEYS: meta, log, snapshot, index, holder of the turn, queue for it
-- ARGV: name, generation, epoch, seq, tag, hash of the tag at (epoch, seq); rule, tag, hash; lifetime in ms or '';
--   most that a conflict brings, most that news bring; channel, author; node that hands on its turn or '', prefix of inboxes, notice; entries
local name, generation = ARGV[1], tonumber(ARGV[2])
local epoch, seq, at, at_hash = tonumber(ARGV[3]), tonumber(ARGV[4]), ARGV[5], ARGV[6]
local behind, tag, hash, ttl = ARGV[7] == 'behind', ARGV[8], ARGV[9], ARGV[10]
local most_missed, most_news = tonumber(ARGV[11]), tonumber(ARGV[12])
local channel, author, turn, inbox = ARGV[13], ARGV[14], ARGV[15], ARGV[16]
local notice, FIRST = ARGV[17], 18
local meta = read(KEYS, name, generation)
local floor = meta.p
local birth = seq == 0
if birth and epoch > meta.p then
  meta.p = epoch
  redis.call('HSET', KEYS[1], 'p', digits(epoch))
  if meta.s == 0 then redis.call('PEXPIRE', KEYS[1], 86400000) end
end
local function conflict(missed)
  if meta.s == 0 then return { 'conflict', digits(floor), '0', false, missed } end
  return { 'conflict', digits(meta.e), digits(meta.s), meta.t, missed }
end
local between = {}
if meta.s == 0 then
  if not birth or epoch <= floor then return conflict(false) end
  redis.call('DEL', KEYS[2], KEYS[3])
  redis.call('HDEL', KEYS[1], 'n', 'x')
  redis.call('PERSIST', KEYS[1])
  redis.call('ZADD', KEYS[4], 0, name)
  meta.e, meta.s, meta.h, meta.x = epoch, 0, string.rep('\0', 8), 0
  meta.g = generation
  redis.call('HSET', KEYS[1], 'g', digits(generation))
elseif not (meta.e == epoch and meta.s == seq and meta.t == at) then
  local same, missed = meta.e == epoch, meta.s - seq
  if missed <= 0 or not (same or birth) or missed > redis.call('LLEN', KEYS[2]) then return conflict(false) end
  between = newest(KEYS, missed)
  if string.sub(between[1], 17, 24) ~= at_hash then return conflict(false) end
  for i, entry in ipairs(between) do
    if string.sub(entry, 1, 16) == tag then
      local own = i
      while between[own + 1] and string.sub(between[own + 1], 1, 16) == tag do own = own + 1 end
      local last = meta.s - (#between - own)
      while #between >= i do table.remove(between) end
      return { 'at', digits(meta.e), digits(last), tag, between }
    end
  end
  if not same then return conflict(false) end
  if not behind then
    local size = 0
    for _, entry in ipairs(between) do size = size + #entry - 24 end
    return conflict(size <= most_missed and between)
  end
end
local news, size = {}, 0
local before = meta.h
for i = FIRST, #ARGV do
  local entry = tag .. before .. ARGV[i]
  redis.call('RPUSH', KEYS[2], entry)
  size = size + #ARGV[i]
  if size <= most_news then
    news[#news + 1] = struct.pack('>I4', #entry)
    news[#news + 1] = entry
  end
  before = hash
end
local first = meta.s + 1
meta.s = meta.s + #ARGV - FIRST + 1
redis.call('HSET', KEYS[1], 'e', digits(meta.e), 's', digits(meta.s), 't', tag, 'h', hash)
if ttl ~= '' then
  local life = tonumber(ttl)
  redis.call('HSET', KEYS[1], 'x', digits(now() + life))
  -- The log goes by itself, should nobody look; the meta hash is a tombstone for a day.
  redis.call('PEXPIRE', KEYS[1], digits(life + 86400000))
  redis.call('PEXPIRE', KEYS[2], digits(life + 60000))
  redis.call('PEXPIRE', KEYS[3], digits(life + 60000))
elseif meta.x > 0 then
  redis.call('HDEL', KEYS[1], 'x')
  redis.call('PERSIST', KEYS[1])
  redis.call('PERSIST', KEYS[2])
  redis.call('PERSIST', KEYS[3])
end
if size > most_news then
  redis.call('SPUBLISH', channel, author .. 'A' .. struct.pack('>I8I8', meta.e, meta.s))
else
  redis.call('SPUBLISH', channel, author .. 'E' .. struct.pack('>I8I8', meta.e, first) .. table.concat(news))
end
if turn ~= '' then hand_on(KEYS[5], KEYS[6], turn, inbox, notice) end
return { 'at', digits(meta.e), digits(meta.s), tag, between }
