/**
 * What has to happen as one step on the server. Every key of a script is in one hash slot: `{prefix}:…`. Times are the
 * server's own, so that processes need not agree about the clock.
 */
import { createHash } from 'node:crypto'

export type Script = { readonly text: string; readonly sha: string }

function script(text: string): Script {
  const whole = `#!lua\n${text}`
  return { text: whole, sha: createHash('sha1').update(whole).digest('hex') }
}

const NOW = `
local function now()
  local time = redis.call('TIME')
  return time[1] * 1000 + math.floor(time[2] / 1000)
end`

const PAIRS = `
local function pairsOf(flat)
  local found = {}
  for at = 1, #flat, 2 do found[flat[at]] = flat[at + 1] end
  return found
end`

/**
 * Where a subscription stands in a stream: { cursor, entries read, entries ever added, entries there, last id, first id }. The
 * cursor is the group's last-delivered-id: up to there everything is finished. '' where stream or group is gone.
 */
const STANDING = `
local function standing(stream, subscription)
  if redis.call('EXISTS', stream) == 0 then return { '', 0, 0, 0, '0-0', '' } end
  local info = pairsOf(redis.call('XINFO', 'STREAM', stream))
  local first = info['first-entry'] and info['first-entry'][1] or ''
  local added, length, last = info['entries-added'], info['length'], info['last-generated-id']
  for _, flat in ipairs(redis.call('XINFO', 'GROUPS', stream)) do
    local group = pairsOf(flat)
    if group['name'] == subscription then
      local cursor, read = group['last-delivered-id'], group['entries-read']
      -- Somebody moved the group by hand and did not say how many that made: count what is left.
      if not read then read = added - #redis.call('XRANGE', stream, '(' .. cursor, '+') end
      return { cursor, read, added, length, last, first }
    end
  end
  return { '', 0, added, length, last, first }
end`

/**
 * KEYS: settings, subscriptions, processes, control, streams. ARGV: shards, a new instance's name.
 * Answers { shards, instance }: those of whoever came first. Refuses a key that something else made.
 */
export const prepare = script(`
local kinds = { 'hash', 'hash', 'zset' }
for at, key in ipairs(KEYS) do
  local kind, wanted = redis.call('TYPE', key)['ok'], kinds[at] or 'stream'
  if kind ~= 'none' and kind ~= wanted then
    return redis.error_reply("WRONGTYPE the key '" .. key .. "' holds a " .. kind .. ', and should be a ' .. wanted)
  end
end
redis.call('HSETNX', KEYS[1], 'shards', ARGV[1])
redis.call('HSETNX', KEYS[1], 'instance', ARGV[2])
return redis.call('HMGET', KEYS[1], 'shards', 'instance')`)

/**
 * KEYS: the stream of each shard. ARGV: entriesMax, count, then for each message what redis-entry.ts writes.
 * All or nothing: whatever may be refused is refused before the first entry is written.
 */
export const append = script(`
local held = 0
for _, stream in ipairs(KEYS) do held = held + redis.call('XLEN', stream) end
local count = tonumber(ARGV[2])
if held + count > tonumber(ARGV[1]) then return redis.error_reply('LOGFULL ' .. held .. ' entries') end
local at = 3
for _ = 1, count do
  local stream, form, id, type = KEYS[ARGV[at] + 1], ARGV[at + 1], ARGV[at + 2], ARGV[at + 3]
  if form == '1' then
    redis.call('XADD', stream, '*', 'id', id, 'type', type, 'key', ARGV[at + 4], 'text', ARGV[at + 5])
    at = at + 6
  else
    form = tonumber(form)
    local entry = { 'id', id, 'type', type }
    at = at + 4
    if form % 2 == 1 then
      entry[#entry + 1], entry[#entry + 2] = 'key', ARGV[at]
      at = at + 1
    end
    if form % 4 > 1 then
      entry[#entry + 1], entry[#entry + 2] = 'headers', ARGV[at]
      at = at + 1
    end
    entry[#entry + 1], entry[#entry + 2] = form > 3 and 'bytes' or 'text', ARGV[at]
    at = at + 1
    redis.call('XADD', stream, '*', unpack(entry))
  end
end
return count`)

/**
 * KEYS: subscriptions, processes, members, leases, control, streams. ARGV: subscription, bindings (JSON), from, the process
 * that an ephemeral one belongs to or ''. Makes what is missing; what is there keeps its place.
 */
export const declare = script(`${NOW}${PAIRS}
local name, bindings, from, owner = ARGV[1], ARGV[2], ARGV[3], ARGV[4]
local stored = redis.call('HGET', KEYS[1], name)
local old = stored and cjson.decode(stored)
if old and old.ephemeralOf ~= '' then
  local aliveUntil = redis.call('ZSCORE', KEYS[2], old.ephemeralOf)
  if old.ephemeralOf ~= owner and (not aliveUntil or tonumber(aliveUntil) < now()) then
    for at = 6, #KEYS do redis.pcall('XGROUP', 'DESTROY', KEYS[at], name) end
    redis.call('DEL', KEYS[3], KEYS[4])
    old = false
  end
end
for at = 6, #KEYS do
  local stream, last, read = KEYS[at], '0-0', 0
  if redis.call('EXISTS', stream) == 1 then
    local info = pairsOf(redis.call('XINFO', 'STREAM', stream))
    last, read = info['last-generated-id'], info['entries-added']
    if from == 'beginning' then last, read = '0-0', read - info['length'] end
  end
  local made = redis.pcall('XGROUP', 'CREATE', stream, name, last, 'MKSTREAM', 'ENTRIESREAD', read)
  if made['err'] and not string.find(made['err'], 'BUSYGROUP') then return made end
end
local record = cjson.encode({ bindings = bindings, ephemeralOf = old and old.ephemeralOf or owner })
if record ~= stored then
  redis.call('HSET', KEYS[1], name, record)
  redis.call('XADD', KEYS[5], 'MAXLEN', '~', 100, '*', 'subscription', name)
end
return 'OK'`)

/** KEYS: subscriptions, members, leases, control, streams. ARGV: subscription. */
export const remove = script(`
redis.call('HDEL', KEYS[1], ARGV[1])
redis.call('DEL', KEYS[2], KEYS[3])
for at = 5, #KEYS do
  if redis.call('EXISTS', KEYS[at]) == 1 then redis.call('XGROUP', 'DESTROY', KEYS[at], ARGV[1]) end
end
redis.call('XADD', KEYS[4], 'MAXLEN', '~', 100, '*', 'subscription', ARGV[1])
return 'OK'`)

/**
 * One member's heartbeat, and its fair share. KEYS: settings, subscriptions, members, leases, control, streams. ARGV: subscription,
 * member, leaseMs, reachFirst, then the shards that it gives back.
 * Answers { instance, record, { shard, epoch, suspect, leaving, …standing, reach }, … } of the shards that are the member's now.
 * An epoch is at least the server's time, so that it also grows when the server lost everything. \`suspect\`: up to this
 * entry a member that was lost may have begun; ''. \`reach\`: it has begun no more than so many matching entries behind the
 * cursor (S8); '': nobody knows, because the bindings changed meanwhile, say. A member that is new or gives something back
 * tells the others.
 */
export const balance = script(`${NOW}${PAIRS}${STANDING}
local name, member, at = ARGV[1], ARGV[2], now()
local record, instance = redis.call('HGET', KEYS[2], name), redis.call('HGET', KEYS[1], 'instance')
if not record or not instance then return { instance or '', '' } end
local changed = redis.call('ZADD', KEYS[3], at + ARGV[3], member) == 1
if redis.call('ZREMRANGEBYSCORE', KEYS[3], '-inf', '(' .. string.format('%.0f', at)) > 0 then changed = true end
local members, alive, place = redis.call('ZRANGE', KEYS[3], 0, -1), {}, 0
table.sort(members)
for index, one in ipairs(members) do
  alive[one] = true
  if one == member then place = index end
end
local leases = pairsOf(redis.call('HGETALL', KEYS[4]))
for index = 5, #ARGV do
  local shard = ARGV[index]
  if leases['owner:' .. shard] == member then
    redis.call('HDEL', KEYS[4], 'owner:' .. shard, 'suspect:' .. shard)
    leases['owner:' .. shard], leases['suspect:' .. shard] = nil, nil
    changed = true
  end
end
local shards, mine, free = #KEYS - 5, {}, {}
for shard = 0, shards - 1 do
  local owner = leases['owner:' .. shard]
  if owner == member then mine[#mine + 1] = shard
  elseif not owner or not alive[owner] then free[#free + 1] = shard end
end
local fair = math.floor(shards / #members) + (place <= shards % #members and 1 or 0)
local answer = { instance, record }
local bindings = redis.sha1hex(record)
local function reachOf(shard)
  local count, epoch, ofBindings = string.match(leases['reach:' .. shard] or '', '^(%d+) (%d+) (%x+)$')
  return epoch == leases['epoch:' .. shard] and ofBindings == bindings and count or ''
end
local function add(shard, leaving)
  local row = { shard, leases['epoch:' .. shard], leases['suspect:' .. shard] or '', leaving }
  for _, value in ipairs(standing(KEYS[6 + shard], name)) do row[#row + 1] = value end
  row[#row + 1] = reachOf(shard)
  answer[#answer + 1] = row
end
for index, shard in ipairs(mine) do add(shard, index > fair and 1 or 0) end
for index = 1, math.min(#free, fair - #mine) do
  local shard = free[index]
  local reach = leases['owner:' .. shard] and reachOf(shard) or ARGV[4]
  local epoch = math.max((tonumber(leases['epoch:' .. shard]) or 0) + 1, at)
  leases['epoch:' .. shard] = string.format('%.0f', epoch)
  leases['suspect:' .. shard] = leases['owner:' .. shard] and standing(KEYS[6 + shard], name)[5] or ''
  leases['reach:' .. shard] = reach .. ' ' .. leases['epoch:' .. shard] .. ' ' .. bindings
  redis.call('HSET', KEYS[4], 'owner:' .. shard, member, 'epoch:' .. shard, leases['epoch:' .. shard],
    'suspect:' .. shard, leases['suspect:' .. shard], 'reach:' .. shard, leases['reach:' .. shard])
  add(shard, 0)
end
if changed then redis.call('XADD', KEYS[5], 'MAXLEN', '~', 100, '*', 'subscription', name) end
return answer`)

/** Gives everything back. KEYS: members, leases, control. ARGV: subscription, member. */
export const leave = script(`${PAIRS}
redis.call('ZREM', KEYS[1], ARGV[2])
for field, value in pairs(pairsOf(redis.call('HGETALL', KEYS[2]))) do
  if value == ARGV[2] and string.sub(field, 1, 6) == 'owner:' then
    redis.call('HDEL', KEYS[2], field, 'suspect:' .. string.sub(field, 7))
  end
end
redis.call('XADD', KEYS[3], 'MAXLEN', '~', 100, '*', 'subscription', ARGV[1])
return 'OK'`)

/**
 * Moves cursors on. KEYS: leases, streams. ARGV: subscription, member, then shard, epoch, id, entries read, and how far behind
 * that id it may begin (S8). Writes only where the lease is still the member's, and answers how many were written.
 */
export const progress = script(`
local written = 0
for at = 3, #ARGV, 5 do
  local shard = ARGV[at]
  local lease = redis.call('HMGET', KEYS[1], 'owner:' .. shard, 'epoch:' .. shard)
  if lease[1] == ARGV[2] and lease[2] == ARGV[at + 1] then
    local moved = redis.pcall('XGROUP', 'SETID', KEYS[2 + shard], ARGV[1], ARGV[at + 2], 'ENTRIESREAD', ARGV[at + 3])
    if not moved['err'] then
      redis.call('HSET', KEYS[1], 'reach:' .. shard, ARGV[at + 4])
      written = written + 1
    end
  end
end
return written`)

/** Where a subscription stands in every shard. KEYS: subscriptions, streams. ARGV: subscription. nil: there is none. */
export const standings = script(`${PAIRS}${STANDING}
local record = redis.call('HGET', KEYS[1], ARGV[1])
if not record then return false end
local answer = { record }
for at = 2, #KEYS do answer[#answer + 1] = standing(KEYS[at], ARGV[1]) end
return answer`)

/**
 * What comes behind an entry, without bodies. KEYS: stream. ARGV: id, count, 1 where headers matter.
 * Answers { last id or '' at the end, { type, headers, count, first id }, … }.
 */
export const scan = script(`
local entries, kinds, answer = redis.call('XRANGE', KEYS[1], '(' .. ARGV[1], '+', 'COUNT', ARGV[2]), {}, { '' }
for _, entry in ipairs(entries) do
  local type, headers, fields = 'unknown', '{}', entry[2]
  for at = 1, #fields, 2 do
    if fields[at] == 'type' then type = fields[at + 1]
    elseif fields[at] == 'headers' and ARGV[3] == '1' then headers = fields[at + 1] end
  end
  local kind = kinds[type .. '\\n' .. headers]
  if kind then kind[3] = kind[3] + 1
  else
    kind = { type, headers, 1, entry[1] }
    kinds[type .. '\\n' .. headers] = kind
    answer[#answer + 1] = kind
  end
end
if #entries == tonumber(ARGV[2]) then answer[1] = entries[#entries][1] end
return answer`)

/**
 * A process's heartbeat, and the trimming of what every group has finished and is older than retentionMs, or is too much: a
 * stream of more than keptMax entries keeps nothing for its age. A group of another program counts too, with what it has
 * pending. KEYS: subscriptions, processes, streams. ARGV: process, leaseMs, retentionMs, keptMax.
 * Answers the names of ephemeral subscriptions whose process is gone.
 */
export const tidy = script(`${NOW}${PAIRS}
local at = now()
redis.call('ZADD', KEYS[2], at + ARGV[2], ARGV[1])
redis.call('ZREMRANGEBYSCORE', KEYS[2], '-inf', '(' .. string.format('%.0f', at))
local function isBefore(a, b)
  local aMs, aSequence = string.match(a, '(%d+)-(%d+)')
  local bMs, bSequence = string.match(b, '(%d+)-(%d+)')
  aMs, bMs = tonumber(aMs), tonumber(bMs)
  return aMs < bMs or (aMs == bMs and tonumber(aSequence) < tonumber(bSequence))
end
for index = 3, #KEYS do
  local stream, lowest = KEYS[index], string.format('%.0f-0', at - ARGV[3])
  local first = redis.call('EXISTS', stream) == 1 and redis.call('XRANGE', stream, '-', '+', 'COUNT', 1)[1]
  local surplus, limit = redis.call('XLEN', stream) - ARGV[4], 10000
  if surplus > 0 then
    lowest, limit = pairsOf(redis.call('XINFO', 'STREAM', stream))['last-generated-id'], math.min(limit, surplus)
  end
  if first and isBefore(first[1], lowest) then
    for _, flat in ipairs(redis.call('XINFO', 'GROUPS', stream)) do
      local group = pairsOf(flat)
      local id = group['last-delivered-id']
      if group['pending'] > 0 then
        local oldest = redis.call('XPENDING', stream, group['name'])[2]
        if isBefore(oldest, id) then id = oldest end
      end
      if isBefore(id, lowest) then lowest = id end
    end
    redis.call('XTRIM', stream, 'MINID', '~', lowest, 'LIMIT', limit)
  end
end
local orphans = {}
for name, record in pairs(pairsOf(redis.call('HGETALL', KEYS[1]))) do
  local owner = cjson.decode(record).ephemeralOf
  if owner ~= '' and not redis.call('ZSCORE', KEYS[2], owner) then orphans[#orphans + 1] = name end
end
return orphans`)
