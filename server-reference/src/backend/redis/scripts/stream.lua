-- Shared by the scripts of streams, which are appended to this text.
-- A stream's meta hash: e epoch, s seq, t tag of the newest entry, h its hash, n seq of the snapshot, p highest epoch
-- that anybody proposed, g generation (the epoch that its lives are above), x end of its life in ms.
-- A removed stream leaves s = 0 and p for a day, so that late copies of appends are known.
local function digits(n) return string.format('%.0f', n) end

local function now()
  local time = redis.call('TIME')
  return tonumber(time[1]) * 1000 + math.floor(tonumber(time[2]) / 1000)
end

-- Ends a life: entries, snapshot and the key in the index go. An engine that is full keeps them for now.
local function bury(keys, name, meta)
  meta.p = math.max(meta.p, meta.e)
  meta.s, meta.x = 0, 0
  local stored = redis.pcall('HSET', keys[1], 's', '0', 'p', digits(meta.p), 'e', digits(meta.e))
  if type(stored) == 'table' then return end
  redis.call('HDEL', keys[1], 't', 'h', 'n', 'x')
  redis.call('PEXPIRE', keys[1], 86400000)
  redis.call('DEL', keys[2], keys[3])
  redis.call('ZREM', keys[4], name)
end

-- The stream as it is now. What time and generations have changed is stored, unless the engine is full: it follows from
-- the same again.
local function read(keys, name, generation)
  local m = redis.call('HMGET', keys[1], 'e', 's', 't', 'h', 'n', 'p', 'g', 'x')
  local meta = {
    e = tonumber(m[1] or '0'), s = tonumber(m[2] or '0'), t = m[3], h = m[4], n = tonumber(m[5] or '-1'),
    p = tonumber(m[6] or '0'), g = tonumber(m[7] or '0'), x = tonumber(m[8] or '0'),
  }
  if meta.x > 0 and meta.x <= now() then bury(keys, name, meta) end
  if meta.s > 0 and meta.g < generation then
    meta.e = math.max(meta.e + 1, generation)
    meta.g = generation
    redis.pcall('HSET', keys[1], 'e', digits(meta.e), 'g', digits(meta.g))
  end
  return meta
end

-- The newest `count` entries.
local function newest(keys, count)
  if count <= 0 then return {} end
  return redis.call('LRANGE', keys[2], -count, -1)
end
