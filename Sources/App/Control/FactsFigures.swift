import Glibc
import Kernel
import Tuners

/// What is measured.
extension Facts {
  func figures() async -> Figures {
    var figures = Figures()
    figures.kernel = KernelVersion.release
    figures.isDryRun = options.dryRun
    figures.start = Double(start.milliseconds) / 1000
    figures.resident = Memory.own().resident
    var usage = timespec()
    clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &usage)
    figures.cpuSeconds = Double(usage.tv_sec) + Double(usage.tv_nsec) / 1e9
    figures.namespaces = await supervisor.count
    let modules = await modules.all()
    let lines = await lines()
    let (degraded, missing) = (
      lines.filter(\.isDegraded).count, lines.filter(\.isMissing).count
    )
    figures.signals = [
      ("first_choice", lines.count - degraded - missing), ("degraded", degraded),
      ("none", missing),
    ]
    let losses = pump.losses
    figures.lost = [
      ("ring_full", losses.ringFull), ("stream_full", losses.streamFull),
      ("malformed", losses.malformed),
    ]
    figures.programs = (hooks.programs + modules.flatMap(\.programs)).compactMap { attached in
      attached.runTime().map {
        Figures.Program(
          name: attached.hook.program, calls: $0.calls, seconds: Double($0.nanoseconds) / 1e9)
      }
    }
    figures.tuners = await tunerFigures()
    return figures
  }

  private func tunerFigures() async -> [Figures.OfTuner] {
    let counters = around.counters.all
    let effects = await around.journal.effects
    var held: [String: Int] = [:]
    for holding in await around.journal.holdings() { held[holding.tuner, default: 0] += 1 }
    var written: [String: Int] = [:]
    var disabled: [String: Int] = [:]
    for namespace in await supervisor.all() {
      let writes = await namespace.administratorWrites()
      for tuner in writes.keys { written[tuner, default: 0] += 1 }
      for tuner in await namespace.tunersTurnedOff().union(writes.keys) {
        disabled[tuner, default: 0] += 1
      }
    }
    return await running().map { running in
      let tuner = running.description
      var figures = Figures.OfTuner()
      figures.name = tuner.name
      let count = running.source.flatMap { pump.counts[$0] } ?? .init()
      figures.events = count.events
      figures.folded = count.folded
      if let done = counters[tuner.name] {
        figures.changes = done.changes
        figures.advice = done.advice
        figures.refusals = done.refusals
        figures.latency = done.latency
      }
      figures.effects = effects[tuner.name] ?? figures.effects
      figures.tunables = tuner.tunables.count
      figures.held = held[tuner.name] ?? 0
      figures.administrators = written[tuner.name] ?? 0
      figures.disabled = disabled[tuner.name] ?? 0
      return figures
    }
  }
}
