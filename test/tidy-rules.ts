/**
 * What matters in style and is not seen by the compiler or the linter: each rule reads the repository's text and names
 * what it does not like. tidy.test.ts holds the repository to them, and shows of each that it can fail.
 */
import { readdirSync, readFileSync } from 'node:fs'
import { builtinModules } from 'node:module'
import { dirname, join, normalize } from 'node:path/posix'
import { errorCodes } from '@shopsphere/bus'
import { problemCodes } from '@shopsphere/runtime/problem'
import { type Piece, pieces } from './source-text.ts'

export type TextFile = { readonly path: string; readonly text: string }
export type Finding = { readonly path: string; readonly line: number; readonly what: string }
export type Rule = (files: readonly TextFile[]) => Finding[]

const NOT_OURS = new Set(['node_modules', '.git', 'dist'])
const TEXT = /(?:\.(?:ts|json|md|sql|sh|csv|ya?ml|html|css|js)|\/\.[a-z]+|\/LICENSE|\/Containerfile|\.ci\/run)$/
/** Where programs put what they write; never committed. */
const DATA_FOLDER = 'data/'

/** Every text file of the repository, paths relative to `root` with forward slashes. */
export function readRepository(root: string): TextFile[] {
  return readdirSync(root, { recursive: false, withFileTypes: true })
    .flatMap((entry) => (entry.isDirectory() ? filesBelow(root, entry.name) : [entry.name]))
    .filter((path) => TEXT.test(`/${path}`) && !path.startsWith(DATA_FOLDER))
    .sort()
    .map((path) => ({ path, text: readFileSync(join(root, path), 'utf8') }))
}

function filesBelow(root: string, folder: string): string[] {
  if (NOT_OURS.has(folder.split('/').at(-1)!)) return []
  return readdirSync(join(root, folder), { withFileTypes: true }).flatMap((entry) => {
    const path = `${folder}/${entry.name}`
    return entry.isDirectory() ? filesBelow(root, path) : [path]
  })
}

const isCode = ({ path }: TextFile) => path.endsWith('.ts')
const isTest = ({ path }: TextFile) => path.endsWith('.test.ts')
const isMarkdown = ({ path }: TextFile) => path.endsWith('.md')
/** These have to write down what nobody else may. */
const isTidyItself = ({ path }: TextFile) => /^test\/tidy[-.]/.test(path)

const known = new WeakMap<TextFile, Piece[]>()
function piecesOf(file: TextFile): Piece[] {
  let found = known.get(file)
  if (!found) {
    found = pieces(file.text)
    known.set(file, found)
  }
  return found
}

/** Places where `pattern` matches in the code of a file, outside of strings and comments. */
function inCode(file: TextFile, pattern: RegExp): { line: number; text: string }[] {
  return piecesOf(file)
    .filter(({ kind }) => kind === 'code')
    .flatMap(({ text, line }) => matchesOf(text, pattern, line))
}

function matchesOf(text: string, pattern: RegExp, firstLine = 1): { line: number; text: string; groups: string[] }[] {
  return [...text.matchAll(pattern)].map((match) => ({
    line: firstLine + text.slice(0, match.index).split('\n').length - 1,
    text: match[0],
    groups: match.slice(1),
  }))
}

// --- which way imports point ---

type Import = { readonly from: string; readonly line: number }

function importsOf(file: TextFile): Import[] {
  const all = piecesOf(file).filter(({ kind }) => kind !== 'comment')
  return all.flatMap(({ kind, text, line }, index) => {
    const before = all[index - 1]
    return kind === 'string' && before?.kind === 'code' && /(?:\bimport\s*\(?|(?<![.\w])from)\s*$/.test(before.text)
      ? [{ from: text, line }]
      : []
  })
}

/** What each part may import beside itself. `services` alone: the files that all services share. */
const below: Readonly<Record<string, readonly string[]>> = {
  bus: [],
  contracts: ['bus'],
  runtime: ['bus'],
  services: ['contracts', 'runtime', 'bus'],
  'services/*': ['services', 'contracts', 'runtime', 'bus'],
  auditor: ['services/*', 'services', 'contracts', 'runtime', 'bus'],
  main: ['auditor', 'services/*', 'services', 'contracts', 'runtime', 'bus'],
  replay: ['main', 'auditor', 'services/*', 'services', 'contracts', 'runtime', 'bus'],
  outage: ['replay', 'main', 'auditor', 'services/*', 'services', 'contracts', 'runtime', 'bus'],
  bench: ['main', 'auditor', 'services/*', 'services', 'contracts', 'runtime', 'bus'],
  docs: ['bus'],
  test: ['outage', 'replay', 'bench', 'main', 'auditor', 'services/*', 'services', 'contracts', 'runtime', 'bus'],
}
const packages = ['bus', 'contracts', 'runtime']

/** `services/order/order.ts` → `services/order`; `main.ts` → `main`. */
function partOf(path: string): string {
  const [first, second, ...rest] = path.split('/')
  if (second === undefined) return 'main'
  return first === 'services' && second !== '' && rest.length > 0 ? `services/${second}` : first!
}

const kindOf = (part: string) => (part.startsWith('services/') ? 'services/*' : part)

/** Imports point down only: main, test, bench, outage, replay → auditor → services, never each other → contracts, runtime → bus. */
export const importDirection: Rule = (files) =>
  files.filter(isCode).flatMap((file) => {
    const part = partOf(file.path)
    const allowed = below[kindOf(part)]
    if (!allowed) return [{ path: file.path, line: 1, what: `nobody knows where ${part}/ stands: see tidy-rules.ts` }]
    return importsOf(file).flatMap(({ from, line }) => {
      const target = targetOf(file.path, from)
      if (target === null) return []
      const wrong = whatIsWrong(part, target, allowed, from.startsWith('.'))
      return wrong ? [{ path: file.path, line, what: `imports ${from}: ${wrong}` }] : []
    })
  })

function whatIsWrong(part: string, target: string, allowed: readonly string[], relative: boolean): string | null {
  if (target === part) return relative ? null : 'inside a package, imports are relative'
  if (!allowed.includes(kindOf(target))) return `${part} may not know ${target}`
  if (relative && packages.includes(target)) return `write '@shopsphere/${target}'`
  return null
}

/** The part that an import reaches; null for Node and for packages from elsewhere. */
function targetOf(path: string, from: string): string | null {
  if (from.startsWith('.')) return partOf(normalize(join(dirname(path), from)))
  return from.startsWith('@shopsphere/') ? partOf(`${from.slice('@shopsphere/'.length)}/`) : null
}

const BUS_DEPENDENCIES = ['croner']
/** Where the bus may know a broker's, a database's or a format's own package, which only those who use it install. */
const BUS_PEERS_BELONG = /^bus\/(?:transports|stores|codecs|endpoints|testing)\//

/** The bus needs Node and croner, and a client where it is used; every other part only packages that its package.json names. */
export const declaredPackages: Rule = (files) => {
  const manifest = (path: string) => JSON.parse(files.find((file) => file.path === path)?.text ?? '{}')
  return files.filter(isCode).flatMap((file) => {
    const first = file.path.split('/')[0]!
    const own = manifest(`${first}/package.json`)
    const root = manifest('package.json')
    const { dependencies = {}, devDependencies = {} } = own.name ? own : root
    const peers = BUS_PEERS_BELONG.test(file.path) ? Object.keys(own.peerDependencies ?? {}) : []
    const declared =
      first === 'bus' ? [...BUS_DEPENDENCIES, ...peers] : Object.keys({ ...dependencies, ...devDependencies })
    return importsOf(file)
      .filter(({ from }) => !from.startsWith('.') && !from.startsWith('@shopsphere/'))
      .filter(({ from }) => !from.startsWith('node:') && !declared.includes(packageName(from)))
      .map(({ from, line }) => ({ path: file.path, line, what: undeclared(first, from) }))
  })
}

function undeclared(first: string, from: string): string {
  if (builtinModules.includes(from)) return `imports ${from}: write 'node:${from}'`
  if (first === 'bus') return `imports ${from}: the bus depends on Node and ${BUS_DEPENDENCIES.join(', ')} alone`
  return `imports ${from}: name it in package.json`
}

const packageName = (from: string) =>
  from
    .split('/')
    .slice(0, from.startsWith('@') ? 2 : 1)
    .join('/')

// --- words ---

const EMPTY_NAMES = new Set(['util', 'utils', 'common', 'helper', 'helpers', 'types'])

/** A file or folder is named after what is inside. */
export const namesOfFiles: Rule = (files) =>
  files.flatMap(({ path }) => {
    const empty = path.split(/[/._-]/).find((word) => EMPTY_NAMES.has(word.toLowerCase()))
    return empty ? [{ path, line: 1, what: `'${empty}' says nothing about what is inside` }] : []
  })

/** `ProcessManager` is the pattern's own name. */
const ALLOWED_WORD = /process_?managers?/gi

/** No Manager, Helper, DTO in the names of things. */
export const namesOfThings: Rule = (files) =>
  files.filter(isCode).flatMap((file) =>
    inCode(file, /[A-Za-z_$][\w$]*/g)
      .filter(({ text }) => isBannedName(text))
      .map(({ line, text }) => ({ path: file.path, line, what: `'${text}': say what it does` })),
  )

function isBannedName(name: string): boolean {
  const rest = name.replace(ALLOWED_WORD, '')
  return /Manager|[Hh]elper|DTO|Dto(?![a-z])|^dto(?![a-z])/.test(rest)
}

// --- what the documents say ---

const ERRORS_PAGE = 'docs/errors.md'
const codeLists = [
  { heading: 'Errors of the bus', codes: Object.entries(errorCodes).map(([code]) => ({ code, status: null })) },
  {
    heading: 'Problems of the HTTP API',
    codes: Object.entries(problemCodes).map(([code, { status }]) => ({ code, status })),
  },
]

/** docs/errors.md has every code under its heading, a problem's status beside it, and no code that does not exist. */
export const documentedErrors: Rule = (files) => {
  const page = files.find(({ path }) => path === ERRORS_PAGE)
  if (!page) return [{ path: ERRORS_PAGE, line: 1, what: 'is missing' }]
  return codeLists.flatMap(({ heading, codes }) => {
    const rows = matchesOf(sectionOf(page.text, heading), /^\| `(\w+)` +\|(?: +(\d{3}) +\|)?/gm)
    const missing = codes.filter(({ code }) => !rows.some(({ groups }) => groups[0] === code))
    const wrong = rows.filter(({ groups: [code, status] }) => {
      const entry = codes.find((one) => one.code === code)
      return !entry || (entry.status !== null && String(entry.status) !== status)
    })
    return [
      ...missing.map(({ code }) => ({ path: ERRORS_PAGE, line: 1, what: `'${code}' is missing under '${heading}'` })),
      ...wrong.map(({ groups }) => ({
        path: ERRORS_PAGE,
        line: 1,
        what: `'${groups[0]}' under '${heading}' does not exist, or with another status`,
      })),
    ]
  })
}

/** The text from a heading to the next one of its level. */
function sectionOf(markdown: string, heading: string): string {
  const [, section = ''] = markdown.split(new RegExp(`^## ${heading}$`, 'm'))
  return section.split(/^## /m)[0]!
}

const CONFIG = 'runtime/config.ts'

/** README's table of settings has every variable that runtime/config.ts reads, and no other. */
export const documentedSettings: Rule = (files) => {
  const config = files.find(({ path }) => path === CONFIG)
  const readme = files.find(({ path }) => path === 'README.md')
  const read = matchesOf(config?.text ?? '', /^ {4}([A-Z][A-Z_]+): /gm).map(({ groups }) => groups[0]!)
  const told = matchesOf(sectionOf(readme?.text ?? '', 'Settings'), /^\| `([A-Z_]+)`/gm).map(({ groups }) => groups[0]!)
  return [
    ...read.filter((name) => !told.includes(name)).map((name) => `${name} is missing under 'Settings'`),
    ...told.filter((name) => !read.includes(name)).map((name) => `${name} is told and never read`),
  ].map((what) => ({ path: 'README.md', line: 1, what }))
}

/** Every `npm run …` that a document tells people to type exists. */
export const documentedScripts: Rule = (files) => {
  const { scripts = {} } = JSON.parse(files.find(({ path }) => path === 'package.json')?.text ?? '{}')
  return files.filter(isMarkdown).flatMap(({ path, text }) =>
    matchesOf(text, /\bnpm (?:run ([\w:-]+)|(start|test)\b)/g)
      .filter(({ groups }) => !Object.hasOwn(scripts, groups[0] ?? groups[1]!))
      .map(({ line, text: told }) => ({ path, line, what: `'${told}' is no script of package.json` })),
  )
}

/** Links between the repository's documents and files lead somewhere, down to the heading. */
export const links: Rule = (files) => {
  const byPath = new Map(files.map((file) => [file.path, file]))
  const leads = (path: string) =>
    path === '.' || byPath.has(path) || files.some((file) => file.path.startsWith(`${path}/`))
  return files.filter(isMarkdown).flatMap((file) =>
    matchesOf(withoutCode(file.text), /\]\(<?([^)\s>]+)>?\)/g)
      .filter(({ groups }) => !/^[a-z]+:/.test(groups[0]!))
      .flatMap(({ groups, line }) => {
        const [target = '', anchor] = groups[0]!.split('#')
        const path = target === '' ? file.path : normalize(join(dirname(file.path), target)).replace(/\/$/, '')
        const found = { path: file.path, line, what: `${groups[0]} leads nowhere` }
        if (!leads(path)) return [found]
        return anchor === undefined || anchorsOf(byPath.get(path)?.text ?? '').includes(anchor) ? [] : [found]
      }),
  )
}

/** Fenced blocks and code spans are no place for links; line ends stay, so that lines are still counted right. */
const withoutCode = (markdown: string) =>
  markdown.replace(/^```[\s\S]*?^```$/gm, (block) => block.replace(/[^\n]/g, '')).replace(/`[^`\n]*`/g, 'code')

/** As GitHub makes them of headings. */
const anchorsOf = (markdown: string) =>
  matchesOf(markdown, /^#{1,6} (.+)$/gm).map(({ groups }) =>
    groups[0]!
      .trim()
      .toLowerCase()
      .replace(/[^\p{L}\p{N}\s_-]/gu, '')
      .replace(/\s/g, '-'),
  )

// --- tests ---

/** No test runs alone because somebody forgot a word. */
export const noOnly: Rule = (files) =>
  files
    .filter((file) => isCode(file))
    .flatMap((file) =>
      inCode(file, /\b(?:test|it|describe|suite)\.only\b|\bonly: true\b/g).map(({ line, text }) => ({
        path: file.path,
        line,
        what: `'${text}' leaves out every other test`,
      })),
    )

/** It looks after every test file. */
const PRELOADED = 'test/open-handles.ts'

/** `npm test` finds tests by their names; the suites that others run are registered by a test file. */
export const testFileNames: Rule = (files) =>
  files
    .filter((file) => isCode(file) && !isTest(file) && !file.path.startsWith('bus/testing/') && file.path !== PRELOADED)
    .flatMap((file) =>
      importsOf(file)
        .filter(({ from }) => from === 'node:test')
        .map(({ line }) => ({ path: file.path, line, what: 'uses node:test, so its name must end in .test.ts' })),
    )

const numbered = (letter: string, count: number) => Array.from({ length: count }, (_, index) => `${letter}${index + 1}`)
/** The promises of the bus and the invariants of the shop (ARCHITECTURE.md). */
const PROMISES = [...numbered('B', 15), ...numbered('I', 8)]
const NUMBERS_FIRST = /^(?:[A-Z]\d+(?: |$))+/

/** Every promise and every invariant stands at the beginning of the title of a test. */
export const promisesTested: Rule = (files) => {
  const titles = files
    .filter((file) => isCode(file) && (isTest(file) || file.path.startsWith('bus/testing/')) && !isTidyItself(file))
    .flatMap((file) => piecesOf(file).filter(({ kind }) => kind === 'string' || kind === 'template'))
    .flatMap(({ text }) => NUMBERS_FIRST.exec(text)?.[0].trim().split(' ') ?? [])
  return PROMISES.filter((promise) => !titles.includes(promise)).map((promise) => ({
    path: 'test',
    line: 1,
    what: `no test names ${promise}`,
  }))
}

// --- time and chance ---

const AMBIENT = /\bDate\.now\b|\bMath\.random\b|\bnew Date\(\)|\b(?:setTimeout|setInterval)\(/g

/**
 * Services and contracts take the clock and chance that they are given, so that a test can move time and repeat luck.
 * Not the gateway: it waits for other processes, which live in real time.
 */
export const givenTime: Rule = (files) =>
  files
    .filter((file) => isCode(file) && !isTest(file) && /^(?:services\/(?!gateway\/)|contracts\/)/.test(file.path))
    .flatMap((file) =>
      inCode(file, AMBIENT).map(({ line, text }) => ({
        path: file.path,
        line,
        what: `'${text}': use the clock or the random numbers of the service's context`,
      })),
    )

// --- what must not be left lying about ---

const UNFINISHED = /\b(?:TODO|FIXME|XXX)\b/g

/** What is not done is an issue, not a note in a file. */
export const nothingUnfinished: Rule = (files) =>
  files
    .filter((file) => !isTidyItself(file) && !file.path.endsWith('.csv'))
    .flatMap(({ path, text }) =>
      matchesOf(text, UNFINISHED).map((found) => ({ path, line: found.line, what: found.text })),
    )

const MACHINE = /(?<![\w.)}\]:/-])\/(?:work|tmp|root|home\/\w+)(?=[/\s'"`),;]|$)/gm
const REGISTRY = /\/\/registry\.[\w.-]+|"resolved": "https?:/g

/** Nobody else's machine has these folders, and everybody has a package registry of their own. */
export const noMachine: Rule = (files) =>
  files
    .filter((file) => !isTidyItself(file) && !file.path.endsWith('.csv'))
    .flatMap(({ path, text }) =>
      [...matchesOf(text, MACHINE), ...matchesOf(text, REGISTRY)].map((found) => ({
        path,
        line: found.line,
        what: `'${found.text}' exists on one machine only`,
      })),
    )

export const rules: Readonly<Record<string, Rule>> = {
  importDirection,
  declaredPackages,
  namesOfFiles,
  namesOfThings,
  documentedErrors,
  documentedSettings,
  documentedScripts,
  links,
  noOnly,
  testFileNames,
  promisesTested,
  givenTime,
  nothingUnfinished,
  noMachine,
}
