/** What was handed out in order and comes back in any order: up to where nothing is unfinished. */
export type Item = { done: boolean }

/** Items are dropped from the front once there are so many finished ones. */
const DROP_MIN = 256

export class Unfinished<Kind extends Item> {
  private items: Kind[] = []
  private finished = 0

  add(item: Kind): void {
    this.items.push(item)
  }

  /** Forgets this one and all that were added after it: they were not handed out after all. */
  takeBack(first: Kind): void {
    this.items = this.items.slice(0, this.items.indexOf(first))
    this.finished = Math.min(this.finished, this.items.length)
  }

  /** The first that is not finished, or undefined where none is. */
  lowest(): Kind | undefined {
    const { items } = this
    while (this.finished < items.length && items[this.finished]!.done) this.finished += 1
    if (this.finished === items.length) this.items = []
    else if (this.finished > DROP_MIN) this.items = items.slice(this.finished)
    else return items[this.finished]
    this.finished = 0
    return this.items[0]
  }

  /** How many are not finished. */
  count(): number {
    return this.items.reduce((count, { done }) => count + (done ? 0 : 1), 0)
  }

  /** Finished ones behind the lowest unfinished: done, although whoever looks at the lowest cannot know it. */
  finishedBehind(): number {
    this.lowest()
    return this.items.length - this.finished - this.count()
  }
}
