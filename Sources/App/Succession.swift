import Kernel
import Logging
import State
import Tuners

/// What this daemon takes over from those before it.
extension Supervisor {
  /// From an earlier one in this boot: goes on with what that had changed and
  /// still holds its value. The originals stay what they were.
  func takeUp() async {
    let (held, writes, crashed) = await around.journal.recall()
    if crashed {
      around.log.notice(
        "the daemon before this one ended without a word; what it had changed is known")
    }
    for (id, holdings) in Dictionary(grouping: held, by: \.namespace) {
      guard await isThere(id) else {
        await around.journal.forget(id)
        continue
      }
      let namespace = namespace(id)
      for holding in holdings {
        guard let ours = await namespace.takeUp(holding, afterCrash: crashed) else { continue }
        for tuner in tuners { await tuner.recall(ours) }
      }
    }
    // The oldest first, so that the last one of a tunable counts.
    for record in writes.reversed() {
      var known = Tunable.known(record.tunable)
      if known == nil { known = await around.journal.foreign(record.tunable) }
      guard let tunable = known, await isThere(record.namespace) else { continue }
      await around.journal.recall(record, tunable)
      for tuner in tunable.owners.union([record.tuner]) {
        let write = AdministratorWrite(
          tunable: tunable, tuner: tuner, process: 0, command: "", old: record.old, new: record.new)
        switch tunable.scope {
        case .perNamespace: await namespace(record.namespace).recall(write)
        case .global: await recallGlobally(write)
        }
      }
    }
  }

  private func isThere(_ id: NamespaceID) async -> Bool {
    if namespaces[id] != nil { return true }
    return (try? await around.directory.inside(id) { true }) != nil
  }

  /// From before a restart of the machine: raises at once what had to be raised
  /// then, where the kernel begins with the same value as it did then.
  func startWarm() async {
    for holding in await around.journal.takeLearned(
      by: Set(policies.map { $0.name } + modules.keys))
    {
      let words = "learned before the restart"
      let why = holding.scenario == words ? holding.reason : "\(words): \(holding.reason)"
      let adjustment = Adjustment(
        holding.tunable, from: .whole(holding.original), to: .whole(holding.written),
        scenario: words, reason: why,
        risk: policies.flatMap { $0.risks }.first { $0.name == holding.risk })
      let outcome = await own().carryOutFirst(adjustment, of: holding.tuner)
      guard case .applied = outcome,
        let ours = await around.journal.holding(holding.tunable, in: around.directory.own)
      else { continue }
      for tuner in tuners { await tuner.recall(ours) }
    }
  }
}
