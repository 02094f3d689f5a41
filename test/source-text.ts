/** TypeScript cut into code, comments and strings: enough to look for words where they count, and not a parser. */

export type Piece = {
  /** `template`: one stretch of a template string between its braces. */
  readonly kind: 'code' | 'comment' | 'string' | 'template' | 'regex'
  readonly text: string
  readonly line: number
}

/** Behind one of these a `/` begins a regular expression, not a division. */
const BEFORE_REGEX = /(?:^|[(,=:[!&|?{};+\-*%^~<>]|\b(?:return|typeof|case|of|in|await|yield|void))\s*$/

/** The pieces in order; `line` is that of the first character. Text has no delimiters and keeps its escapes; a comment is whole. */
export function pieces(source: string): Piece[] {
  const found: Piece[] = []
  let line = 1
  let code = ''
  const add = (kind: Piece['kind'], text: string, raw: string) => {
    if (text !== '' || kind !== 'code') found.push({ kind, text, line })
    line += raw.split('\n').length - 1
  }
  const flush = () => {
    add('code', code, code)
    code = ''
  }
  /** Depths of braces: one entry for each template string that is open around this place. */
  const templates: number[] = []
  let at = 0
  const take = (kind: Piece['kind'], end: number, text: string) => {
    flush()
    add(kind, text, source.slice(at, end))
    at = end
  }
  const takeTemplate = (from: number) => {
    const { end, opens } = templateEnd(source, from)
    take('template', end, source.slice(from, opens ? end - 2 : end - 1))
    if (opens) templates.push(0)
  }
  while (at < source.length) {
    const next = source.slice(at, at + 2)
    const character = source[at]!
    if (next === '//') take('comment', lineEnd(source, at), source.slice(at, lineEnd(source, at)))
    else if (next === '/*') take('comment', blockEnd(source, at), source.slice(at, blockEnd(source, at)))
    else if (character === "'" || character === '"') {
      const end = quoteEnd(source, at)
      take('string', end, source.slice(at + 1, end - 1))
    } else if (character === '`') takeTemplate(at + 1)
    else if (character === '}' && templates.at(-1) === 0) {
      templates.pop()
      takeTemplate(at + 1)
    } else if (character === '/' && BEFORE_REGEX.test(code)) {
      const end = regexEnd(source, at)
      take('regex', end, source.slice(at + 1, end - 1))
    } else {
      if (templates.length > 0 && character === '{') templates[templates.length - 1]! += 1
      if (templates.length > 0 && character === '}') templates[templates.length - 1]! -= 1
      code += character
      at += 1
    }
  }
  flush()
  return found
}

function lineEnd(source: string, from: number): number {
  const end = source.indexOf('\n', from)
  return end < 0 ? source.length : end
}

function blockEnd(source: string, from: number): number {
  const end = source.indexOf('*/', from + 2)
  return end < 0 ? source.length : end + 2
}

function quoteEnd(source: string, from: number): number {
  const quote = source[from]
  let at = from + 1
  while (at < source.length && source[at] !== quote && source[at] !== '\n') at += source[at] === '\\' ? 2 : 1
  return at + 1
}

function templateEnd(source: string, from: number): { end: number; opens: boolean } {
  let at = from
  while (at < source.length) {
    if (source[at] === '`') return { end: at + 1, opens: false }
    if (source.startsWith('${', at)) return { end: at + 2, opens: true }
    at += source[at] === '\\' ? 2 : 1
  }
  return { end: source.length, opens: false }
}

function regexEnd(source: string, from: number): number {
  let at = from + 1
  let inClass = false
  while (at < source.length && source[at] !== '\n') {
    if (source[at] === '/' && !inClass) return at + 1
    if (source[at] === '[') inClass = true
    if (source[at] === ']') inClass = false
    at += source[at] === '\\' ? 2 : 1
  }
  return at
}
