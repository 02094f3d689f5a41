/** A backlog over time, drawn with block characters for a terminal. */

export type Sample = { readonly atMs: number; readonly waiting: number }
/** A moment that is marked below the time axis. */
export type Mark = { readonly atMs: number; readonly what: string }

const COLUMNS = 64
const ROWS = 8
/** Eighths of a character's height. */
const BLOCKS = ' ▁▂▃▄▅▆▇█'

/** Lines without their line ends: the columns from the first sample to the last, the time axis, the marks. */
export function picture(
  samples: readonly Sample[],
  marks: readonly Mark[] = [],
  { columns = COLUMNS, rows = ROWS }: { columns?: number; rows?: number } = {},
): string[] {
  if (samples.length === 0) return []
  const first = samples[0]!.atMs
  const spanMs = Math.max(1, samples.at(-1)!.atMs - first)
  const heights = heightsOf(samples, { first, spanMs, columns })
  const highest = Math.max(1, ...heights)
  const labels = [highest.toLocaleString('en-GB'), '0']
  const margin = Math.max(...labels.map((label) => label.length))
  const lines = Array.from({ length: rows }, (_, index) => {
    const row = rows - 1 - index
    const label = index === 0 ? labels[0]! : row === 0 ? labels[1]! : ''
    const bar = heights.map((height) => block((height / highest) * rows * 8 - row * 8)).join('')
    return `${label.padStart(margin)} │${bar}`.trimEnd()
  })
  const axis = `${' '.repeat(margin)} └${'─'.repeat(columns)} ${(spanMs / 1_000).toFixed(0)} s`
  const signs = marks.map(({ atMs, what }) => {
    const column = Math.min(columns - 1, Math.max(0, Math.floor(((atMs - first) / spanMs) * columns)))
    return `${' '.repeat(margin + 2 + column)}▲ ${what}`
  })
  return [...lines, axis, ...signs]
}

/** The highest sample of each column; where there is none, the one before lasts. */
function heightsOf(
  samples: readonly Sample[],
  { first, spanMs, columns }: { first: number; spanMs: number; columns: number },
): number[] {
  const highest: (number | undefined)[] = Array(columns).fill(undefined)
  for (const { atMs, waiting } of samples) {
    const column = Math.min(columns - 1, Math.floor(((atMs - first) / spanMs) * columns))
    highest[column] = Math.max(highest[column] ?? 0, waiting)
  }
  let last = 0
  return highest.map((height) => (last = height ?? last))
}

/** Something is never drawn as nothing. */
function block(eighths: number): string {
  if (eighths <= 0) return ' '
  return BLOCKS[Math.min(8, Math.max(1, Math.round(eighths)))]!
}
