/** A fault suite's pair as `crashSuite` opens it in its child processes; CRASH_PLACE says which. */
import { basename } from 'node:path'
import { silentLog } from '../log.ts'
import type { CrashWorld } from './crash-suite.ts'
import type { FaultModule, FaultPlace } from './fault-services.ts'

type CrashPlace = { readonly module: string } & Pick<FaultPlace, 'url' | 'settings'>

const places = new Map<string, FaultPlace>()

/** For the crash suite that is registered next, and for its children. */
export function crashOn(place: CrashPlace): { module: URL } {
  process.env.CRASH_PLACE = JSON.stringify(place)
  return { module: new URL(import.meta.url) }
}

export async function open(directory: string): Promise<CrashWorld> {
  const { module, url, settings } = JSON.parse(process.env.CRASH_PLACE!) as CrashPlace
  const { open } = (await import(module)) as FaultModule
  // The folder is the world's own, and so is its name.
  const name = basename(directory)
    .toLowerCase()
    .replaceAll(/[^a-z0-9]/g, '_')
  const place = { url, directory, name, settings }
  places.set(name, place)
  return open(place, silentLog)
}

/** Takes away what the worlds that this process opened have left on servers that others use too. */
export async function eraseCrashPlaces(): Promise<void> {
  if (places.size === 0) return
  const { module } = JSON.parse(process.env.CRASH_PLACE!) as CrashPlace
  const { erase } = (await import(module)) as FaultModule
  for (const place of places.values()) await erase?.(place)
}
