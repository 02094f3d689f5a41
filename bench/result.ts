/** What a benchmark answers, and how it is shown. */

export type Result = {
  what: string
  value: number
  unit: string
  /** What it is compared with, measured in the same run. */
  against: string
  againstValue: number
  /** Above 1: ours is better. */
  ratio: number
  /** What survives what. */
  durability: string
  runs: number
  /** Of the ratio over the runs: (max − min) / median. */
  spread: number
}

export type Bench = (options: { runs: number; note: (text: string) => void }) => Promise<Result[]>

/** One pair of figures, measured side by side. */
export type Pair = { ours: number; peer: number }

/** Medians of pairs taken in turn, so that a machine whose speed drifts is the same for both. `lowerIsBetter` for times and sizes. */
export function compare(
  pairs: readonly Pair[],
  labels: Pick<Result, 'what' | 'unit' | 'against' | 'durability'>,
  lowerIsBetter = false,
): Result {
  const ratios = pairs.map(({ ours, peer }) => (lowerIsBetter ? peer / ours : ours / peer))
  const ratio = median(ratios)
  return {
    ...labels,
    value: median(pairs.map(({ ours }) => ours)),
    againstValue: median(pairs.map(({ peer }) => peer)),
    ratio,
    runs: pairs.length,
    spread: (Math.max(...ratios) - Math.min(...ratios)) / ratio,
  }
}

export function median(values: readonly number[]): number {
  const sorted = [...values].sort((a, b) => a - b)
  const middle = sorted.length >> 1
  return sorted.length % 2 === 1 ? sorted[middle]! : (sorted[middle - 1]! + sorted[middle]!) / 2
}

export function percentile(values: readonly number[], share: number): number {
  const sorted = [...values].sort((a, b) => a - b)
  return sorted[Math.min(sorted.length - 1, Math.floor(sorted.length * share))]!
}

export function report(bench: string, results: readonly Result[], json: boolean): void {
  const rows = results.map((result) => [
    result.what,
    `${format(result.value)} ${result.unit}`,
    `${result.ratio.toFixed(3)} times as good as ${result.against} (${format(result.againstValue)} ${result.unit})`,
    `${result.runs} runs, spread ${Math.round(result.spread * 100)} %`,
    result.durability,
  ])
  const widths = [0, 1, 2, 3, 4].map((column) => Math.max(...rows.map((row) => row[column]!.length)))
  for (const row of rows) {
    process.stdout.write(
      `${row
        .map((cell, column) => cell.padEnd(widths[column]!))
        .join('  ')
        .trimEnd()}\n`,
    )
  }
  if (json) process.stdout.write(`${JSON.stringify({ bench, results })}\n`)
}

function format(value: number): string {
  return value >= 100 ? Math.round(value).toLocaleString('en-GB') : value.toPrecision(3)
}
