-- Passes a turn on: `holder` a key that expires, `queue` the nodes that wait. Its channel may be in another master's slot:
-- it is one that all masters know.
local function hand_on(holder, queue, node, inbox, notice)
  redis.call('LREM', queue, 0, node)
  if redis.call('GET', holder) ~= node then return end
  local after = redis.call('LPOP', queue)
  if not after then
    redis.call('DEL', holder)
    return
  end
  redis.call('SET', holder, after, 'PX', TURN)
  redis.call('PUBLISH', inbox .. after, notice)
end
