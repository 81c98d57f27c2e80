#!/usr/bin/env node
// Test equipment: stands in for Prisma's native schema engine where that can't be downloaded. It speaks the engine's JSON-RPC on stdio
// over @prisma/schema-engine-wasm and @prisma/adapter-pg; the command line in front of it is Prisma's own, unmodified.
import fs from 'node:fs'
import path from 'node:path'
import readline from 'node:readline'
import { createRequire } from 'node:module'
import { fileURLToPath } from 'node:url'

const here = path.dirname(fs.realpathSync(fileURLToPath(import.meta.url)))
const require = createRequire(here + '/package.json')
const argv = process.argv.slice(2)
const option = (name) => (argv.includes(name) ? argv[argv.indexOf(name) + 1] : undefined)

function datasource() {
  const raw = option('--datasource')
  if (!raw) return { url: process.env.DATABASE_URL }
  for (const read of [JSON.parse, (text) => JSON.parse(Buffer.from(text, 'base64').toString())]) {
    try { return { url: process.env.DATABASE_URL, ...read(raw) } } catch { /* another form */ }
  }
  return { url: raw }
}

function parts(url) {
  const at = new URL(url)
  return {
    host: at.hostname, port: +(at.port || 5432), user: decodeURIComponent(at.username),
    password: at.password ? decodeURIComponent(at.password) : undefined, database: at.pathname.slice(1), schema: at.searchParams.get('schema'),
  }
}

// Catalog types that the adapter can't read are taken as text.
const Result = require('pg/lib/result.js')
const addFields = Result.prototype.addFields
const AS_TEXT = { 18: 25, 19: 25, 24: 25, 194: 25, 1002: 1009, 1003: 1009, 2205: 25 }
Result.prototype.addFields = function (fields) {
  for (const field of fields) if (AS_TEXT[field.dataTypeID]) field.dataTypeID = AS_TEXT[field.dataTypeID]
  return addFields.call(this, fields)
}
const pg = require('pg')
const { PrismaPg } = require('@prisma/adapter-pg')
const { bindMigrationAwareSqlAdapterFactory, ColumnTypeEnum } = require('@prisma/driver-adapter-utils')
const main = parts(datasource().url)

if (argv.includes('can-connect-to-database')) {
  const client = new pg.Client(main)
  try { await client.connect(); await client.end(); process.exit(0) } catch (error) {
    const fields = { message: error.message, is_panic: false, error_code: 'P1001' }
    process.stderr.write(JSON.stringify({ timestamp: new Date().toISOString(), level: 'ERROR', fields, target: 'schema_engine::logger' }) + '\n')
    process.exit(1)
  }
}

class Adapter extends PrismaPg {
  // The adapter cuts scripts at every semicolon; the native engine sends a script whole.
  whole(made) {
    made.executeScript = async (script) => { try { await made.client.query(script) } catch (error) { made.onError(error) } }
    // One of the catalog's columns is asked for as a letter: NOT NULL constraints, which Postgres 18 lists, are looked at there.
    const queryRaw = made.queryRaw.bind(made)
    made.queryRaw = async (query) => {
      const found = await queryRaw(query)
      const letter = found.columnNames.indexOf('constraint_type')
      if (letter >= 0) found.columnTypes[letter] = ColumnTypeEnum.Character
      return found
    }
    return made
  }
  async connect() { return this.whole(await super.connect()) }
  async connectToShadowDb() {
    const name = 'prisma_migrate_shadow_db_' + crypto.randomUUID()
    const admin = new pg.Client(main)
    await admin.connect()
    await admin.query(`CREATE DATABASE "${name}"`)
    const made = await new Adapter({ ...main, database: name }).connect()
    const pool = made.client
    made.dispose = async () => { await pool.end().catch(() => {}); await admin.query(`DROP DATABASE "${name}"`); await admin.end() }
    return made
  }
}

const { schema, ...connection } = main
const glue = await import(here + '/node_modules/@prisma/schema-engine-wasm/schema_engine_bg.js')
const bytes = fs.readFileSync(here + '/node_modules/@prisma/schema-engine-wasm/schema_engine_bg.wasm')
const { instance } = await WebAssembly.instantiate(bytes, { './schema_engine_bg.js': glue })
glue.__wbg_set_wasm(instance.exports)
instance.exports.__wbindgen_start()
const factory = bindMigrationAwareSqlAdapterFactory(new Adapter(connection, schema ? { schema } : undefined))
const files = (option('--datamodels') || option('-d') || '').split(' ').filter(Boolean)
const datamodels = files.length ? files.map((file) => [file, fs.readFileSync(file, 'utf8')]) : undefined
let made
const engine = async () => (made ??= await glue.SchemaEngine.new({ datamodels }, () => {}, factory))
const say = (message) => process.stdout.write(JSON.stringify({ jsonrpc: '2.0', ...message }) + '\n')

async function answer(line) {
  const request = JSON.parse(line)
  if (!request.method) return
  const method = request.method === 'getDatabaseVersion' ? 'version' : request.method
  try {
    const found = await (await engine())[method](request.params)
    if (method === 'diff' && found?.stdout != null) say({ id: 0, method: 'print', params: { content: found.stdout } })
    say({ id: request.id, result: method === 'diff' ? { exitCode: found?.exitCode ?? 0, ...found } : (found ?? null) })
  } catch (error) {
    const data = { is_panic: false, message: String(error?.message ?? error), meta: error?.meta ?? null, error_code: error?.code ?? null }
    say({ id: request.id, error: { code: 4466, message: 'An error happened. Check the data field for details.', data } })
  }
}

const lines = readline.createInterface({ input: process.stdin })
let chain = Promise.resolve()
lines.on('line', (line) => { if (line.trim()) chain = chain.then(() => answer(line)) })
lines.on('close', () => chain.then(() => process.exit(0)))
