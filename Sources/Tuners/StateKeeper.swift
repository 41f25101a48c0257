import Kernel
import Logging
import State

/// Keeps the journal in the state file as long as that can be written, and
/// says so when it cannot. Belongs to the journal.
final class StateKeeper {
  private let loop: KernelLoop
  private let own: NamespaceID
  private let log: Logger
  private let directory: String?
  private var file: StateFile?
  /// What was in the file is known; else it is better left alone.
  private var wasOpen = false
  /// Why nothing can be stored at the moment, or at all.
  private var trouble: String?
  /// When to try again.
  private var retry = ContinuousClock.now
  /// Records that are not in the file; the newest.
  private var unsaved: [Record] = []
  private var lastID: Int64 = 0
  /// A dry run takes nothing off the file that a daemon after it needs.
  private var isDryRun = false
  private var upkeep: Task<Void, Never>?
  private var writes = 0
  /// Enough for the first upkeep to look for what has become too old.
  private var recordsSincePruning = 500

  private static let mostUnsaved = HistoryFilter.most
  private static let pause = Duration.seconds(30)
  /// So many writes before they are brought to the disk without waiting for a
  /// quiet time: the log ahead of the file stays small.
  private static let mostWrites = 1000

  /// Tunables that only tuners from outside have.
  private(set) var foreign: [Tunable] = []

  /// What the file told when the daemon began.
  private(set) var start = StateFile.Start()

  /// `directory` is nil for none.
  init(loop: KernelLoop, own: NamespaceID, directory: String?, log: Logger) {
    self.loop = loop
    self.own = own
    self.log = log
    self.directory = directory
    guard let directory else {
      trouble = "no state directory was asked for"
      return
    }
    do {
      file = try StateFile.open(directory: directory) { log.warning("\($0)") }
      wasOpen = true
    } catch {
      trouble = "\(error)"
      log.warning("no state is kept: \(error); what is changed is known only while the daemon runs")
    }
  }

  var storage: Storage {
    if let trouble { return .memory(trouble) }
    return file.map { .file($0.path) } ?? .memory("no state directory was asked for")
  }

  /// Which boot the records are of.
  var boot: String { file?.machine.boot ?? "" }

  // MARK: Starting and stopping

  /// Begins to use the file: what is held from before, and the records of
  /// administrators' writes that still count. A dry run leaves no mark.
  func begin(dryRun: Bool) -> (held: [StateFile.Row], administrators: [Record]) {
    isDryRun = dryRun
    guard let file else { return ([], []) }
    do {
      lastID = try file.lastRecord()
      foreign = try file.foreignTunables()
      if !dryRun { start = try file.start() }
      if let trouble = start.trouble { suffer(trouble) }
      var filter = HistoryFilter()
      filter.kinds = [.administrator]
      filter.limit = HistoryFilter.most
      let writes =
        start.crashed
        ? try file.history(filter).filter { $0.boot == file.machine.boot && $0.id > start.session }
        : []
      return (try file.holdings(), writes)
    } catch {
      suffer(error)
      return ([], [])
    }
  }

  func takeLearned(by tuners: Set<String>) -> [StateFile.Row] {
    guard trouble == nil, let file else { return [] }
    do { return try file.takeLearned(by: tuners) } catch { suffer(error) }
    return []
  }

  /// Everything is in order: brings it to the disk.
  func close(dryRun: Bool) {
    upkeep?.cancel()
    guard trouble == nil, let file else { return }
    do {
      if dryRun { try file.synchronize() } else { try file.stop() }
    } catch {
      suffer(error)
    }
    self.file = nil
    wasOpen = false
    trouble = "the daemon is stopping"
  }

  // MARK: Writing

  func remember(_ tunables: [Tunable], all: () -> [Holding]) {
    foreign.removeAll { tunables.contains($0) }
    foreign += tunables
    if isDryRun { return }
    store(all) { file throws(StateFile.Failure) in try file.save(foreign: tunables) }
  }

  /// A new record's number.
  func number() -> Int64 {
    lastID += 1
    return lastID
  }

  func save(_ holding: Holding, _ record: Record, all: () -> [Holding]) {
    recordsSincePruning += 1
    let stored = store(all) { file throws(StateFile.Failure) in
      try file.save(row(holding), record)
    }
    if !stored { keep(record) }
  }

  func save(_ holding: Holding, all: () -> [Holding]) {
    store(all) { file throws(StateFile.Failure) in try file.save(row(holding)) }
  }

  func save(_ record: Record, all: () -> [Holding]) {
    recordsSincePruning += 1
    let stored = store(all) { file throws(StateFile.Failure) in
      try file.save(record, own: record.namespace == own)
    }
    if !stored { keep(record) }
  }

  func remove(_ tunable: Tunable, in namespace: NamespaceID, all: () -> [Holding]) {
    if isDryRun { return }
    store(all) { file throws(StateFile.Failure) in
      try file.remove(namespace, tunable: tunable.name)
    }
  }

  private func keep(_ record: Record) {
    if let index = unsaved.lastIndex(where: { $0.id == record.id }) {
      unsaved[index] = record
      return
    }
    if unsaved.count >= Self.mostUnsaved { unsaved.removeFirst(Self.mostUnsaved / 2) }
    unsaved.append(record)
  }

  /// Whether it was stored. `all` is what is held, for when the file has to be
  /// filled again.
  @discardableResult
  private func store(
    _ all: () -> [Holding], _ body: (StateFile) throws(StateFile.Failure) -> Void
  ) -> Bool {
    if trouble != nil, !recover(all) { return false }
    guard let file else { return false }
    do {
      try body(file)
    } catch {
      suffer(error)
      return false
    }
    writes += 1
    if writes % Self.mostWrites == 0 { keepUp() }
    scheduleUpkeep(after: Self.pause)
    return true
  }

  private func suffer(_ failure: StateFile.Failure) {
    retry = ContinuousClock.now + Self.pause
    guard trouble == nil else { return }
    trouble = failure.description
    log.warning(
      "the state cannot be written: \(failure); tuning goes on, and what is changed is known only while the daemon runs"
    )
  }

  /// Tries again, now and then.
  private func recover(_ all: () -> [Holding]) -> Bool {
    guard wasOpen, let directory, ContinuousClock.now >= retry else { return false }
    retry = ContinuousClock.now + Self.pause
    file = nil
    do {
      // Opening it again sets aside what is damaged.
      file = try StateFile.open(directory: directory) { log.warning("\($0)") }
      try file?.save(foreign: foreign)
      try file?.saveAll(all().map(row), unsaved.map { ($0, own: $0.namespace == own) })
    } catch {
      return false
    }
    unsaved = []
    trouble = nil
    log.notice("the state is written again")
    return true
  }

  private func row(_ holding: Holding) -> StateFile.Row {
    var row = StateFile.Row(
      namespace: holding.namespace, tunable: holding.tunable.name, tuner: holding.tuner,
      original: "\(holding.original)", written: "\(holding.written)",
      previous: "\(holding.previous)", since: holding.since, changes: Int64(holding.changes),
      scenario: holding.scenario, reason: holding.reason, risk: holding.risk)
    row.own = holding.namespace == own
    row.namespaceName = holding.namespaceName
    return row
  }

  // MARK: Reading

  func history(_ filter: HistoryFilter) -> [Record] {
    let limit = max(1, min(filter.limit, HistoryFilter.most))
    var inMemory = filter
    if case .own = filter.namespace { inMemory.namespace = .one(own) }
    var found = Array(unsaved.reversed().lazy.filter(inMemory.admits).prefix(limit))
    if found.count < limit, let file, let stored = try? file.history(filter) {
      let known = Set(found.map(\.id))
      found += stored.filter { !known.contains($0.id) }
    }
    return Array(found.prefix(limit))
  }

  // MARK: Upkeep

  /// Once, some time after a write: no timer runs while nothing is written.
  private func scheduleUpkeep(after pause: Duration) {
    guard upkeep == nil else { return }
    let loop = self.loop
    // Runs on the loop, as all that touches this.
    nonisolated(unsafe) let keeper = self
    upkeep = Task(executorPreference: loop) {
      await loop.sleep(for: pause)
      if Task.isCancelled { return }
      keeper.upkeep = nil
      keeper.keepUp()
    }
  }

  /// Deletes some of what is too much, and brings the rest to the disk.
  private func keepUp() {
    guard trouble == nil, let file else { return }
    do {
      if recordsSincePruning >= 500 {
        if try file.prune() {
          scheduleUpkeep(after: .milliseconds(100))
        } else {
          recordsSincePruning = 0
        }
      }
      try file.synchronizeAside()
    } catch {
      suffer(error)
    }
  }
}
