-- KEYS: index. ARGV: prefix of meta keys, name after which or '', count
local found, after = {}, ARGV[2] == '' and '-' or '(' .. ARGV[2]
local count, time = tonumber(ARGV[3]), now()
while #found < count do
  local page = redis.call('ZRANGEBYLEX', KEYS[1], after, '+', 'LIMIT', 0, count - #found)
  for _, name in ipairs(page) do
    local meta = redis.call('HMGET', ARGV[1] .. name, 's', 'x')
    if meta[1] and meta[1] ~= '0' and (not meta[2] or tonumber(meta[2]) > time) then
      found[#found + 1] = name
    else
      redis.call('ZREM', KEYS[1], name)
    end
  end
  if #page == 0 then break end
  after = '(' .. page[#page]
end
return found
