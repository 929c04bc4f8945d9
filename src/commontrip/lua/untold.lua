-- Say which transitions nobody has told of, and leave them to the caller for a while.
--
-- KEYS: transitions, told (see `told`).
-- ARGV: least age (ms), greatest age (ms), for how long they are the caller's (ms), for how long told is kept (ms).
-- Returns epoch ids, the newest first.
-- Invariants: of many callers at once one gets a transition; it is another's turn when the time is over and it
--   is still not told. A seed is no transition. At most 200 entries are looked at.
-- Called by the first few replicas that learned of a transition, some seconds later, and by newcomers.

local kind = redis.call('TYPE', KEYS[2]).ok
if kind ~= 'none' and kind ~= 'zset' then redis.call('DEL', KEYS[2]) end
local entries = redis.pcall('XREVRANGE', KEYS[1], text(now - tonumber(ARGV[4])), text(now - tonumber(ARGV[5])), 'COUNT', 200)
local found = {}
for _, entry in ipairs(entries.err and {} or entries) do
  for i = 1, #entry[2], 2 do
    local id = entry[2][i] == 'epoch' and entry[2][i + 1]
    if id and string.match(id, '^%x+%.[1-9]%d*%.%x+$') then
      if tonumber(redis.call('ZSCORE', KEYS[2], id) or '0') <= now then
        redis.call('ZADD', KEYS[2], text(now + tonumber(ARGV[6])), id)
        found[#found + 1] = id
      end
    end
  end
end
if #found > 0 then redis.call('PEXPIRE', KEYS[2], tonumber(ARGV[7])) end
return found
