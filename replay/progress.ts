/** Shows how far a long job is: a bar that redraws itself on a terminal, a line every few seconds elsewhere. */
import { whole } from './summary.ts'

const redrawMs = 100
const lineEveryMs = 5_000
const barCharacters = 24
/** The rate is that of the last seconds, so that it follows when the work becomes faster or slower. */
const rateWindowMs = 5_000

export type ProgressOutput = { write(text: string): unknown; isTTY?: boolean; columns?: number }

export type Progress = {
  /** Ends the phase before and begins one of `total` steps, `unit` naming them. */
  phase(name: string, total: number, unit: string): void
  advance(count: number): void
  /** Sets the number of steps that are done. */
  set(done: number): void
  /** Writes a line of its own, above the bar. */
  note(text: string): void
  /** Ends the last phase and leaves the terminal clean. Calling it twice is fine. */
  end(): void
}

type Phase = {
  name: string
  total: number
  unit: string
  done: number
  startedMs: number
  marks: { atMs: number; done: number }[]
}

/** @param now milliseconds from any beginning, never going back */
export function createProgress(output: ProgressOutput, now: () => number = () => performance.now()): Progress {
  const isTerminal = output.isTTY === true
  let phase: Phase | null = null
  let shownMs = 0

  const clear = () => isTerminal && output.write('\r\x1b[2K')
  const show = (current: Phase) => {
    shownMs = now()
    const text = describe(current, now(), isTerminal)
    if (isTerminal) output.write(`\r\x1b[2K${text.slice(0, Math.max(1, (output.columns || 80) - 1))}`)
    else output.write(`${text}\n`)
  }
  const finish = () => {
    if (phase === null) return
    clear()
    const seconds = ((now() - phase.startedMs) / 1000).toFixed(1)
    output.write(`${phase.name}: ${whole(phase.done)} ${phase.unit} in ${seconds} s\n`)
    phase = null
  }
  const set = (done: number) => {
    if (phase === null || done === phase.done) return
    phase.done = done
    const isDue = now() - shownMs >= (isTerminal ? redrawMs : lineEveryMs)
    if (isDue) show(phase)
  }
  return {
    phase(name, total, unit) {
      finish()
      phase = { name, total, unit, done: 0, startedMs: now(), marks: [{ atMs: now(), done: 0 }] }
      if (isTerminal) show(phase)
      else shownMs = now()
    },
    advance: (count) => set((phase?.done ?? 0) + count),
    set,
    note(text) {
      clear()
      output.write(`${text}\n`)
      if (phase !== null && isTerminal) show(phase)
    },
    end: finish,
  }
}

function describe(phase: Phase, nowMs: number, withBar: boolean): string {
  const { name, total, unit, done } = phase
  const share = total > 0 ? Math.min(1, done / total) : 1
  const perSecond = rate(phase, nowMs)
  const left = perSecond > 0 && done < total ? `, ${duration((total - done) / perSecond)} left` : ''
  const filled = Math.round(share * barCharacters)
  const bar = withBar ? ` [${'█'.repeat(filled)}${'·'.repeat(barCharacters - filled)}]` : ''
  const percent = `${Math.floor(share * 100)} %`
  return `${name}${bar} ${percent}  ${whole(done)}/${whole(total)} ${unit}, ${whole(Math.round(perSecond))}/s${left}`
}

function rate(phase: Phase, nowMs: number): number {
  phase.marks.push({ atMs: nowMs, done: phase.done })
  while (phase.marks.length > 2 && nowMs - phase.marks[0]!.atMs > rateWindowMs) phase.marks.shift()
  const [first] = phase.marks
  const elapsedMs = nowMs - first!.atMs
  return elapsedMs > 0 ? ((phase.done - first!.done) * 1000) / elapsedMs : 0
}

function duration(seconds: number): string {
  const rounded = Math.ceil(seconds)
  if (rounded < 60) return `${rounded} s`
  if (rounded < 3600) return `${Math.floor(rounded / 60)} min ${rounded % 60} s`
  return `${Math.floor(rounded / 3600)} h ${Math.floor((rounded % 3600) / 60)} min`
}
