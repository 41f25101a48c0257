public import Kernel
public import Logging
public import State

/// What the daemon changed, and what else happened to tunables: the value of
/// each before its first change, the value written last, and a history.
public actor Journal {
  public struct Key: Hashable, Sendable {
    public let namespace: NamespaceID
    public let tunable: Tunable
  }

  /// How often a tuner changed a tunable, in all namespaces; kept when a
  /// namespace goes.
  public struct Total: Sendable {
    public internal(set) var changes = 0
    public internal(set) var namespaces: Set<NamespaceID> = []
    public internal(set) var scenarios: [String: Int] = [:]
    public internal(set) var first: SysctlValue
    public internal(set) var last: SysctlValue
  }

  private let loop: KernelLoop
  public nonisolated var unownedExecutor: UnownedSerialExecutor {
    loop.asUnownedSerialExecutor()
  }

  private let keeper: StateKeeper
  private let dryRun: Bool
  private var held: [Key: Holding] = [:]
  private var administrators: [Key: Record] = [:]
  /// The record of each change that is being written.
  private var writing: [Key: Record] = [:]
  public private(set) var totals: [Tunable: Total] = [:]
  /// What changes brought, by tuner.
  public private(set) var effects: [String: Effects] = [:]
  private var followers: [Int: AsyncStream<Record>.Continuation] = [:]
  private var nextFollower = 0

  /// `own` is the daemon's own namespace; without a directory everything is
  /// kept in memory.
  public init(
    loop: KernelLoop, own: NamespaceID, directory: String? = nil, dryRun: Bool = false, log: Logger
  ) {
    self.loop = loop
    self.dryRun = dryRun
    keeper = StateKeeper(loop: loop, own: own, directory: directory, log: log)
  }

  // MARK: Reading

  /// The newest records that the filter lets through, the newest first.
  public func history(_ filter: HistoryFilter) -> [Record] { keeper.history(filter) }

  /// Each new record, and each that got its verdict, from now on; the oldest
  /// are dropped for one who does not read.
  public func follow() -> AsyncStream<Record> {
    let (records, continuation) = AsyncStream.makeStream(
      of: Record.self, bufferingPolicy: .bufferingNewest(256))
    nextFollower += 1
    let number = nextFollower
    followers[number] = continuation
    continuation.onTermination = { [loop] _ in
      Task(executorPreference: loop) { await self.unfollow(number) }
    }
    return records
  }

  private func unfollow(_ number: Int) { followers[number] = nil }

  /// What the daemon changed and still holds, in one namespace or in all.
  public func holdings(in namespace: NamespaceID? = nil) -> [Holding] {
    held.values.filter { namespace == nil || $0.namespace == namespace }
      .sorted { $0.tunable.name < $1.tunable.name }
  }

  public func holding(_ tunable: Tunable, in namespace: NamespaceID) -> Holding? {
    held[Key(namespace: namespace, tunable: tunable)]
  }

  /// Whose value it is. Of a global tunable, ask about the daemon's own namespace.
  public func owner(of tunable: Tunable, in namespace: NamespaceID) -> Owner {
    let key = Key(namespace: namespace, tunable: tunable)
    if let holding = held[key] { return .us(holding) }
    return administrators[key].map { .administrator($0) } ?? .kernel
  }

  /// Which boot records of now are of.
  public var boot: String { keeper.boot }

  /// Where the state is kept.
  public var storage: Storage { keeper.storage }

  // MARK: Starting and stopping

  /// What was left behind in this boot, to be verified: what is held, and what
  /// administrators took over since the last start in good order. `crashed`
  /// when the daemon before this one ended without a word.
  public func recall() -> (held: [Holding], administrators: [Record], crashed: Bool) {
    let (rows, writes) = keeper.begin(dryRun: dryRun)
    let holdings = rows.compactMap { Holding($0, foreign: keeper.foreign) }
    for holding in holdings { held[key(of: holding)] = holding }
    return (holdings, writes, keeper.start.crashed)
  }

  /// What was learned in an earlier boot of this machine, by these tuners.
  public func takeLearned(by tuners: Set<String>) -> [Holding] {
    dryRun ? [] : keeper.takeLearned(by: tuners).compactMap { Holding($0, foreign: keeper.foreign) }
  }

  /// Tunables of a tuner from outside, so that they can be put back without it.
  public func remember(_ tunables: [Tunable]) { keeper.remember(tunables, all: all) }

  /// One that was remembered, by this daemon or one before it.
  public func foreign(_ name: String) -> Tunable? {
    keeper.foreign.first { $0.name == name }
  }

  /// All is in order.
  public func close() {
    keeper.close(dryRun: dryRun)
    for follower in followers.values { follower.finish() }
    followers = [:]
  }

  // MARK: Writing

  /// Call it before the write, so that the original is known whatever happens.
  public func willWrite(
    _ new: SysctlValue, over old: SysctlValue, _ adjustment: Adjustment,
    in namespace: NamespaceID, name: String?, tuner: String, as kind: Record.Kind = .change
  ) {
    let key = Key(namespace: namespace, tunable: adjustment.tunable)
    let now = WallClock.now()
    var holding =
      held[key]
      ?? Holding(
        namespace: namespace, tunable: adjustment.tunable, tuner: tuner, original: old,
        written: old, previous: old, since: now, changes: 0, scenario: "", reason: "")
    holding.namespaceName = name ?? holding.namespaceName
    holding.tuner = tuner
    holding.previous = old
    holding.written = new
    holding.changes += 1
    holding.scenario = adjustment.scenario
    holding.reason = adjustment.reason
    holding.risk = adjustment.risk?.name ?? ""
    held[key] = holding
    var record = Record(
      kind, time: now, tuner: tuner, tunable: key.tunable.name, namespace: namespace,
      namespaceName: name ?? "", old: "\(old)", new: "\(new)", scenario: adjustment.scenario,
      reason: adjustment.reason)
    number(&record)
    writing[key] = record
    keeper.save(holding, record, all: all)
  }

  /// The write has taken place; the record of it.
  @discardableResult
  public func didWrite(
    _ tunable: Tunable, in namespace: NamespaceID, name: String? = nil
  ) -> Record? {
    let key = Key(namespace: namespace, tunable: tunable)
    administrators[key] = nil
    guard var record = writing.removeValue(forKey: key), var holding = held[key] else { return nil }
    if let name, record.namespaceName.isEmpty {
      record.namespaceName = name
      holding.namespaceName = name
      held[key] = holding
      keeper.save(holding, record, all: all)
    }
    var total = totals[tunable] ?? Total(first: holding.previous, last: holding.written)
    total.changes += 1
    total.scenarios[record.scenario, default: 0] += 1
    total.last = holding.written
    // Enough to say "in 1000 namespaces"; a storm of short ones is not kept.
    if total.namespaces.count < 100_000 { total.namespaces.insert(namespace) }
    totals[tunable] = total
    tell(record)
    // It is the kernel's own again.
    if holding.written == holding.original { drop(key) }
    return record
  }

  /// The write failed, and why; what stands there now.
  public func didNotWrite(
    _ tunable: Tunable, in namespace: NamespaceID, now current: SysctlValue?, _ why: String
  ) {
    let key = Key(namespace: namespace, tunable: tunable)
    if var record = writing.removeValue(forKey: key) {
      record.kind = .refusal
      record.outcome = why
      keeper.save(record, all: all)
      tell(record)
    }
    guard var holding = held[key] else { return }
    holding.changes -= 1
    // The kernel may have made something else of it.
    holding.written = current ?? holding.previous
    if holding.written == holding.original {
      drop(key)
    } else {
      held[key] = holding
      keeper.save(holding, all: all)
    }
  }

  /// An adjustment that was only advised, or refused.
  @discardableResult
  public func note(
    _ adjustment: Adjustment, _ outcome: Outcome, in namespace: NamespaceID, name: String?,
    tuner: String
  ) -> Record {
    var record = Record(
      .advice, time: WallClock.now(), tuner: tuner, tunable: adjustment.tunable.name,
      namespace: namespace, namespaceName: name ?? "", old: "\(adjustment.assumed)",
      new: "\(adjustment.wanted)", scenario: adjustment.scenario, reason: adjustment.reason)
    switch outcome {
    case .applied: break
    case .advised(let old, let new):
      record.old = "\(old)"
      record.new = "\(new)"
      if let risk = adjustment.risk { record.outcome = "\(risk.name): it \(risk.warning)" }
    case .refused(let refusal):
      if case .heldOut = refusal { record.kind = .holdOut } else { record.kind = .refusal }
      record.outcome = "\(refusal)"
    }
    add(&record)
    return record
  }

  /// A write by someone else: the value is theirs from now on. Each tuner of
  /// the tunable may tell of it, and it may come often: `isWorthARecord`.
  public func administratorWrote(
    _ write: AdministratorWrite, in namespace: NamespaceID, name: String?, isWorthARecord: Bool
  ) -> Record {
    let key = Key(namespace: namespace, tunable: write.tunable)
    drop(key)
    var record = Record(
      .administrator, time: WallClock.now(), tuner: write.tuner, tunable: write.tunable.name,
      namespace: namespace, namespaceName: name ?? "", old: write.old ?? "",
      new: write.new ?? "", reason: "\(write)")
    if let known = administrators[key], known.reason == record.reason { return known }
    if isWorthARecord { add(&record) }
    administrators[key] = record
    return record
  }

  /// What was recalled is an administrator's still.
  public func recall(_ record: Record, _ tunable: Tunable) {
    administrators[Key(namespace: record.namespace, tunable: tunable)] = record
  }

  /// A tuner was turned off or on by command.
  public func note(_ text: String, tuner: String, in namespace: NamespaceID, name: String?) {
    var record = Record(
      .note, time: WallClock.now(), tuner: tuner, tunable: "", namespace: namespace,
      namespaceName: name ?? "", old: "", new: "", reason: text)
    add(&record)
  }

  /// The original has been put back.
  public func didPutBack(_ holding: Holding, name: String?) -> Record {
    drop(key(of: holding))
    var record = Record(
      .rollback, time: WallClock.now(), tuner: holding.tuner, tunable: holding.tunable.name,
      namespace: holding.namespace, namespaceName: name ?? "", old: "\(holding.written)",
      new: "\(holding.original)")
    add(&record)
    return record
  }

  /// It is the daemon's still; what of it came to be written.
  func takeUp(_ holding: Holding, at value: SysctlValue) -> Holding {
    guard value != holding.written else { return holding }
    wasNotWritten(holding)
    var holding = holding
    holding.written = value
    holding.changes -= 1
    held[key(of: holding)] = holding
    keeper.save(holding, all: all)
    return holding
  }

  /// It is as it was before the daemon's first change.
  func isOriginal(_ holding: Holding) {
    if holding.written != holding.original { wasNotWritten(holding) }
    drop(key(of: holding))
  }

  /// The record of its last change came before the write, and the write never.
  private func wasNotWritten(_ holding: Holding) {
    var filter = HistoryFilter()
    filter.kinds = [.change]
    filter.tunable = holding.tunable.name
    filter.namespace = .one(holding.namespace)
    filter.limit = 1
    guard !dryRun, var record = keeper.history(filter).first, record.new == "\(holding.written)"
    else { return }
    record.kind = .refusal
    record.outcome = "the daemon ended before it was written"
    keeper.save(record, all: all)
  }

  /// The value is not the daemon's any more.
  public func release(_ holding: Holding) { drop(key(of: holding)) }

  /// What a change brought.
  func conclude(_ record: Record, _ finding: Finding, heldOut: Bool) -> Record {
    var record = record
    record.verdict = heldOut ? .unclear : finding.verdict
    record.effect = finding.effect
    effects[record.tuner, default: Effects()].add(finding, heldOut: heldOut)
    keeper.save(record, all: all)
    tell(record)
    return record
  }

  /// Something about the daemon's own state.
  public func note(_ text: String, in namespace: NamespaceID) {
    var record = Record(
      .note, time: WallClock.now(), tuner: "", tunable: "", namespace: namespace, old: "", new: "",
      reason: text)
    add(&record)
  }

  /// The namespace is gone, and its values with it.
  public func forget(_ namespace: NamespaceID) {
    for key in held.keys where key.namespace == namespace { drop(key) }
    for key in administrators.keys where key.namespace == namespace { administrators[key] = nil }
  }

  // MARK: Helpers

  private func key(of holding: Holding) -> Key {
    Key(namespace: holding.namespace, tunable: holding.tunable)
  }

  private func all() -> [Holding] { Array(held.values) }

  private func drop(_ key: Key) {
    guard held.removeValue(forKey: key) != nil else { return }
    keeper.remove(key.tunable, in: key.namespace, all: all)
  }

  private func number(_ record: inout Record) {
    record.id = keeper.number()
    record.boot = keeper.boot
  }

  private func add(_ record: inout Record) {
    number(&record)
    keeper.save(record, all: all)
    tell(record)
  }

  private func tell(_ record: Record) {
    for follower in followers.values { follower.yield(record) }
  }
}
