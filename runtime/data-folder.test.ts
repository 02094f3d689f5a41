import assert from 'node:assert/strict'
import { mkdtempDisposableSync, readdirSync, writeFileSync } from 'node:fs'
import { open } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { DatabaseSync } from 'node:sqlite'
import { test } from 'node:test'
import { prepareDataFolder } from './data-folder.ts'

const createFolder = () => mkdtempDisposableSync(join(tmpdir(), 'data-folder-'))

function createDatabase(file: string): void {
  using database = new DatabaseSync(file)
  database.exec('create table t (a text, b blob); create index i on t (a)')
  for (let row = 0; row < 50; row++) database.prepare('insert into t values (?, zeroblob(1000))').run(`row ${row}`)
}

test('the folder is created, and nothing stays in it', () => {
  using parent = createFolder()
  const folder = join(parent.path, 'a', 'b')
  prepareDataFolder(folder)
  prepareDataFolder(folder)
  assert.deepEqual(readdirSync(folder), [])
})

test('healthy and empty databases pass, also while another process has them open', () => {
  using folder = createFolder()
  createDatabase(join(folder.path, 'order.db'))
  writeFileSync(join(folder.path, 'new.db'), '')
  using other = new DatabaseSync(join(folder.path, 'order.db'))
  other.exec('pragma journal_mode = wal; insert into t values (1, null)')
  prepareDataFolder(folder.path)
})

test('a file in place of the folder', () => {
  using folder = createFolder()
  const file = join(folder.path, 'data')
  writeFileSync(file, '')
  assert.throws(() => prepareDataFolder(file), { name: 'StartError', message: /is a file: move it away/ })
  assert.throws(() => prepareDataFolder(join(file, 'below')), {
    name: 'StartError',
    message: /cannot be created \(ENOTDIR\)/,
  })
})

test('a folder that cannot be written', () => {
  assert.throws(() => prepareDataFolder('/proc'), { name: 'StartError', message: /cannot be written/ })
})

test('a disk with too little room', () => {
  using folder = createFolder()
  assert.throws(() => prepareDataFolder(folder.path, { freeBytesMin: 2 ** 60 }), {
    name: 'StartError',
    message: /MiB left and .* needed: free some space/,
  })
})

test('a file that is no database', () => {
  using folder = createFolder()
  writeFileSync(join(folder.path, 'order.db'), 'not a database at all, only text')
  assert.throws(() => prepareDataFolder(folder.path), {
    name: 'StartError',
    message: /order\.db is damaged \(it is no SQLite database\): put back/,
  })
})

test('a database that is damaged in the middle', async () => {
  using folder = createFolder()
  const file = join(folder.path, 'order.db')
  createDatabase(file)
  const handle = await open(file, 'r+')
  await handle.write(Buffer.alloc(8192, 0xa5), 0, 8192, 4096)
  await handle.close()
  assert.throws(() => prepareDataFolder(folder.path), { name: 'StartError', message: /order\.db is damaged/ })
})

test('a database that another program keeps locked', () => {
  using folder = createFolder()
  const file = join(folder.path, 'order.db')
  createDatabase(file)
  using other = new DatabaseSync(file)
  other.exec('begin exclusive')
  assert.throws(() => prepareDataFolder(folder.path, { lockWaitMs: 1 }), {
    name: 'StartError',
    message: /order\.db has been locked by another program/,
  })
})
