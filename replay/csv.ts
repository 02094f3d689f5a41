/**
 * Comma-separated rows out of text that arrives in pieces, one broken line never costing another one.
 *
 * Why not a package: `csv-parse` 7.0.3 (the best of them) was tried on a file with one stray quote on line 3 and the next
 * good quote on line 41. With `skip_records_with_error` it skips lines 3 to 41 as one record; when no quote follows, it
 * loses the rest of the file; with `max_record_size` it stops at the limit and yields nothing more, because it never goes
 * back behind the opening quote. The rule here is that a broken line is refused by its number and the next one is read,
 * and that needs a reader that can take a quote back.
 *
 * How an open quote is judged. A field that is still open at the end of its line either goes on there (a line break inside
 * quotes) or is a stray quote. It is taken as stray, and only its own line is refused, when
 *   Q1 the line has as many fields as the header if the quote is read as a plain character (and the open field is not the last), or
 *   Q2 the next line is a whole row by itself, or
 *   Q3 what closes it does not end a field, or makes a row of the wrong width, or
 *   Q4 nothing closes it within `recordLinesMax` lines or before the end of the file.
 * The lines behind it are then read anew, each for itself. A quote inside a field that did not begin with one is a plain
 * character, as in every spreadsheet (`RECORD FRAME 7" SIZE`).
 */

/** Rows as they come; `line` is the physical line on which the row begins, the first of the file being 1. */
export type CsvRow = { line: number; fields: string[] } | { line: number; fault: string }

/** Characters of one physical line; what is longer is refused without being kept. */
export const lineCharactersMax = 65_536
/** Lines that one row may span through quoted line breaks. */
export const recordLinesMax = 16

type PhysicalLine = { number: number; text: string; tooLong: boolean }

/** Cuts text at `\r\n`, `\n` and `\r`, wherever the pieces happen to be cut. */
class LineSplitter {
  #rest = ''
  #number = 0
  #tooLong = false
  #afterReturn = false

  push(text: string): PhysicalLine[] {
    const lines: PhysicalLine[] = []
    let from = 0
    if (this.#afterReturn && text !== '') {
      if (text[0] === '\n') from = 1
      this.#afterReturn = false
    }
    const lineEnd = /\r\n|\n|\r/g
    lineEnd.lastIndex = from
    for (let found = lineEnd.exec(text); found !== null; found = lineEnd.exec(text)) {
      lines.push(this.#take(text.slice(from, found.index)))
      from = lineEnd.lastIndex
      // The `\n` that belongs to a `\r` at the end of this piece may be the first character of the next one.
      if (found[0] === '\r' && from === text.length) this.#afterReturn = true
    }
    this.#keep(text.slice(from))
    return lines
  }

  end(): PhysicalLine[] {
    return this.#rest === '' && !this.#tooLong ? [] : [this.#take('')]
  }

  #keep(text: string) {
    if (this.#rest.length + text.length > lineCharactersMax) this.#tooLong = true
    this.#rest = this.#tooLong ? '' : this.#rest + text
  }

  #take(text: string): PhysicalLine {
    this.#keep(text)
    this.#number += 1
    const line = { number: this.#number, text: this.#rest, tooLong: this.#tooLong }
    this.#rest = ''
    this.#tooLong = false
    return line
  }
}

type Scan = {
  fields: string[]
  /** What stands in the quoted field that is still open at the end of the line. */
  open: string | null
  /** Where in the line the open field's text begins. */
  openFrom: number
  /** A quote stands inside a field that does not begin with one. */
  plainQuote: boolean
  fault: string | null
}

/** Reads one physical line; `before` is what an earlier line left open. */
function scan(text: string, before?: Scan): Scan {
  const fields = before ? [...before.fields] : []
  let plainQuote = false
  let quoted: string | null = before?.open != null ? `${before.open}\n` : null
  let at = 0
  let openFrom = 0
  for (;;) {
    if (quoted === null && text[at] !== '"') {
      const comma = text.indexOf(',', at)
      const field = comma === -1 ? text.slice(at) : text.slice(at, comma)
      plainQuote ||= field.includes('"')
      fields.push(field)
      if (comma === -1) return { fields, open: null, openFrom, plainQuote, fault: null }
      at = comma + 1
      continue
    }
    if (quoted === null) {
      quoted = ''
      at += 1
      openFrom = at
    }
    const quote = text.indexOf('"', at)
    if (quote === -1) return { fields, open: quoted + text.slice(at), openFrom, plainQuote, fault: null }
    quoted += text.slice(at, quote)
    at = quote + 1
    if (text[at] === '"') {
      quoted += '"'
      at += 1
      continue
    }
    fields.push(quoted)
    quoted = null
    if (at === text.length) return { fields, open: null, openFrom, plainQuote, fault: null }
    if (text[at] !== ',')
      return { fields, open: null, openFrom, plainQuote, fault: 'there is text behind a closing quote' }
    at += 1
  }
}

const strayQuote = 'a quote is opened and never closed'

/** Text in, rows out; the first row is the header and decides how many fields every other row has. */
export class CsvReader {
  readonly #splitter = new LineSplitter()
  #waiting: PhysicalLine[] = []
  #width: number | null = null

  /** Returns the rows that are complete now. */
  push(text: string): CsvRow[] {
    this.#waiting = this.#waiting.concat(this.#splitter.push(text))
    return this.#rows(false)
  }

  /** Call once after the last piece: returns the rows that are left. */
  end(): CsvRow[] {
    this.#waiting = this.#waiting.concat(this.#splitter.end())
    return this.#rows(true)
  }

  #rows(ended: boolean): CsvRow[] {
    const rows: CsvRow[] = []
    let next = 0
    while (next < this.#waiting.length) {
      const first = this.#waiting[next]!
      if (!first.tooLong && first.text.trim() === '') {
        next += 1
        continue
      }
      const found = this.#row(next, ended)
      if (found === null) break
      rows.push(found.row)
      next += found.lines
      if (this.#width === null && 'fields' in found.row) this.#width = found.row.fields.length
    }
    this.#waiting = this.#waiting.slice(next)
    return rows
  }

  /** The row that begins at waiting line `index`, or null while lines that decide about it have not come yet. */
  #row(index: number, ended: boolean): { row: CsvRow; lines: number } | null {
    const first = this.#waiting[index]!
    const refuse = (fault: string) => ({ row: { line: first.number, fault }, lines: 1 })
    if (first.tooLong) return refuse(`the line is longer than ${lineCharactersMax} characters`)
    let state = scan(first.text)
    if (state.open !== null && this.#isWholeButForTheQuote(first.text, state)) return refuse(strayQuote) // Q1
    let lines = 1
    while (state.open !== null) {
      if (lines >= recordLinesMax) return refuse(strayQuote) // Q4
      const following = this.#waiting[index + lines]
      if (following === undefined) return ended ? refuse(strayQuote) : null // Q4
      if (following.tooLong || this.#isWholeRow(following.text)) return refuse(strayQuote) // Q2
      state = scan(following.text, state)
      lines += 1
    }
    if (state.fault !== null) return refuse(lines > 1 ? strayQuote : state.fault) // Q3
    if (this.#width !== null && state.fields.length !== this.#width) {
      const width = `the line has ${state.fields.length} fields, the header has ${this.#width}`
      return refuse(lines > 1 ? strayQuote : width) // Q3
    }
    return { row: { line: first.number, fields: state.fields }, lines }
  }

  #isWholeButForTheQuote(text: string, state: Scan): boolean {
    if (this.#width === null || state.fields.length + 1 === this.#width) return false
    return state.fields.length + text.slice(state.openFrom).split(',').length === this.#width
  }

  #isWholeRow(text: string): boolean {
    const alone = scan(text)
    return alone.open === null && alone.fault === null && !alone.plainQuote && alone.fields.length === this.#width
  }
}
