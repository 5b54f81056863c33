-- Finishes entries of one stream: their outputs and their acknowledgement are one step, and an entry
-- that is not pending any more is left alone. Redis rolls nothing back, so the order is: what can be
-- checked is checked, then the keyed writes, each undone when a later one of the same entry fails,
-- then the acknowledgement of all, for whose failure all is undone, and the publishes last.
--
-- No `#!lua` line: Redis 6.2 doesn't know it, and with it one that is out of memory would refuse
-- what only acknowledges. No write command may stand before the first keyed write, or Redis would
-- not check its memory any more.
--
-- KEYS: the stream, the cursor (if ARGV[4] is 1), the keys of the outputs.
-- ARGV: group, consumer, 1 to delete what is done, 1 with a cursor, number of entries, the lowest and
--   the highest of their ids, then for each its id, the number of its keyed writes, how many values
--   follow, and those: keyed writes `a` key maxlen (0: none) n and n fields and values | `l` key
--   payload, where a key is its place among those of the outputs, then `p` channel payload. An entry
--   that is said as its id, `=` and a value is as the last one before it that is said in full, a
--   single `a` of a single field, but with this value: streams have long runs of such, and each
--   value that needn't come here makes the call cheaper.
-- Answers: how many were dealt with, from the first on; why not the next, or nothing; publishes that
--   were refused, and why; what else went wrong; the places of those that were not pending.
local KEYS, ARGV, pcall, tonumber, unpack = KEYS, ARGV, redis.pcall, tonumber, unpack
local stream, group, consumer = KEYS[1], ARGV[1], ARGV[2]
local delete, cursor, count = ARGV[3] == '1', ARGV[4] == '1' and KEYS[2], tonumber(ARGV[5])
local before = cursor and 2 or 1

local function failure(reply)
  return type(reply) == 'table' and reply.err or nil
end

local function blocked(why)
  return { 0, why, 0, '', '' }
end

local function value(list, name)
  for i = 1, #list, 2 do
    if list[i] == name then return list[i + 1] end
  end
end

-- What is pending. Nearly always all of it is this consumer's, and one look tells.
local pending = {}
local function look(...)
  local rows = pcall('XPENDING', stream, group, ...)
  if rows.err then return rows.err end
  for i = 1, #rows do pending[rows[i][1]] = true end
end
local err = look(ARGV[6], ARGV[7], 2 * count + 1, consumer)
if err then return blocked(err) end

local groups
local function look_at_groups()
  if not groups then groups = pcall('XINFO', 'GROUPS', stream) end
  return groups
end
if delete and count > 0 then
  look_at_groups()
  if failure(groups) then return blocked(failure(groups)) end
  if #groups > 1 then
    return blocked('OTHERGROUP another group reads this stream, so nothing may be deleted')
  end
end

-- Whether a key takes what is to be written; each is looked at once.
local types = { a = 'stream', l = 'list' }
local checked = { a = {}, l = {} }
local function check(kind, place, several)
  local known = checked[kind][place]
  if known == 'all' or (known and not several) then return end
  local key = KEYS[before + place]
  local found = pcall('TYPE', key)
  found = type(found) == 'table' and found.ok
  if found and found ~= 'none' and found ~= types[kind] then
    return 'WRONGTYPE ' .. key .. ' is a ' .. found .. ', not a ' .. types[kind]
  end
  -- Only where undoing would have to follow: XINFO copies two entries.
  if several and kind == 'a' and found ~= 'none' then
    local info = pcall('XINFO', 'STREAM', key)
    if not failure(info) and value(info, 'last-generated-id') == '18446744073709551615-18446744073709551615' then
      return 'EXHAUSTED ' .. key .. ' has used up the last possible id'
    end
  end
  checked[kind][place] = several and 'all' or 'type'
end

-- What was written: the keys, and the ids where they are streams. Undone from the last one on.
local trouble = ''
local written, ids, writes = {}, {}, 0
local function undo(down_to)
  while writes > down_to do
    local reply
    if ids[writes] then
      reply = pcall('XDEL', written[writes], ids[writes])
    else
      reply = pcall('RPOP', written[writes])
    end
    if failure(reply) then trouble = 'an output could not be undone: ' .. failure(reply) end
    writes = writes - 1
  end
end

-- One pass over an entry's writes: looks only, or writes. Answers what is wrong.
local trims = {}
local function pass(at, stop, several, write)
  while at < stop do
    local kind = ARGV[at]
    if kind == 'p' then
      at = at + 3
    else
      local place, length = tonumber(ARGV[at + 1]), 3
      if kind == 'a' then length = 4 + tonumber(ARGV[at + 3]) end
      if not write then
        local wrong = check(kind, place, several)
        if wrong then return wrong end
      else
        local key, reply = KEYS[before + place]
        if kind == 'a' then
          reply = pcall('XADD', key, '*', unpack(ARGV, at + 4, at + length - 1))
        else
          reply = pcall('RPUSH', key, ARGV[at + 2])
        end
        local wrong = failure(reply)
        if wrong then return wrong end
        writes = writes + 1
        written[writes] = key
        ids[writes] = kind == 'a' and reply
        if kind == 'a' and ARGV[at + 2] ~= '0' then trims[key] = ARGV[at + 2] end
      end
      at = at + length
    end
  end
end

-- The keyed writes.
local acked, acks, gone, publishes = {}, 0, {}, {}
local dealt, why, at = count, nil, 8
-- The last entry that was said in full: where it is in ARGV, and what of it those like it need.
local same, place, key, field, trim
for entry = 1, count do
  local id, keyed, stop = ARGV[at], ARGV[at + 1], at + 3
  local alike = keyed == '='
  if not alike then
    at = stop
    stop = at + ARGV[at - 1]
    same, key = at, nil
  end
  local mine = pending[id]
  if mine == nil then
    why = look(id, id, 1)
    mine = pending[id]
  end
  if why then
    dealt = entry - 1
    break
  end
  if not mine then
    gone[#gone + 1] = entry
  else
    if alike then
      if not key then
        place = tonumber(ARGV[same + 1])
        key, field, trim = KEYS[before + place], ARGV[same + 4], ARGV[same + 2]
        why = check('a', place)
        if trim == '0' then trim = nil end
      end
      if not why then
        local reply = pcall('XADD', key, '*', field, ARGV[at + 2])
        if type(reply) == 'string' then
          writes = writes + 1
          written[writes], ids[writes] = key, reply
          if trim then trims[key] = trim end
        else
          why = failure(reply)
        end
      end
    elseif keyed ~= '0' then
      local before_it, several = writes, keyed ~= '1'
      why = pass(at, stop, several) or pass(at, stop, several, true)
      if why then undo(before_it) end
    end
    if why then
      dealt = entry - 1
      break
    end
    acks = acks + 1
    acked[acks] = id
    pending[id] = false
    -- They are at the end.
    if not alike and stop > at and ARGV[stop - 3] == 'p' then
      publishes[#publishes + 1] = { at, stop }
    end
  end
  at = stop
end

-- The acknowledgement.
if acks > 0 then
  local reply = pcall('XACK', stream, group, unpack(acked))
  if failure(reply) then
    undo(0)
    return { 0, failure(reply), 0, '', trouble }
  end
  if delete then
    reply = pcall('XDEL', stream, unpack(acked))
    if failure(reply) then trouble = 'what is done could not be deleted: ' .. failure(reply) end
  end
end
for key, length in pairs(trims) do
  local reply = pcall('XTRIM', key, 'MAXLEN', '~', length)
  if failure(reply) then trouble = 'XTRIM ' .. key .. ': ' .. failure(reply) end
end

-- From where a group would have to be made again: `u` and the lowest unfinished id, or, when nothing
-- is pending, `f` and the last one that was delivered.
if cursor and (acks > 0 or count == 0) then
  local lowest = pcall('XPENDING', stream, group, '-', '+', 1)
  local new
  if not failure(lowest) then
    if lowest[1] then
      new = 'u' .. lowest[1][1]
    elseif not failure(look_at_groups()) then
      for _, found in ipairs(groups) do
        if value(found, 'name') == group then new = 'f' .. value(found, 'last-delivered-id') end
      end
    end
  end
  local reply = new and pcall('SET', cursor, new)
  if reply and failure(reply) then trouble = 'the cursor ' .. cursor .. ': ' .. failure(reply) end
end

local refused, refusal = 0, ''
for _, part in ipairs(publishes) do
  local place, stop = part[1], part[2]
  while place < stop do
    if ARGV[place] == 'a' then
      place = place + 4 + ARGV[place + 3]
    else
      if ARGV[place] == 'p' then
        local reply = pcall('PUBLISH', ARGV[place + 1], ARGV[place + 2])
        if failure(reply) then
          refused = refused + 1
          refusal = failure(reply)
        end
      end
      place = place + 3
    end
  end
end
return { dealt, why or '', refused, refusal, trouble, unpack(gone) }
