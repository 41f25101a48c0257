public import Kernel
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

  private var held: [Key: Holding] = [:]
  private var administrators: [Key: Record] = [:]
  public private(set) var totals: [Tunable: Total] = [:]
  private var recent: [Record] = []
  private var nextID: Int64 = 1
  private var followers: [Int: AsyncStream<Record>.Continuation] = [:]
  private var nextFollower = 0

  public init(loop: KernelLoop) { self.loop = loop }

  // MARK: Reading

  /// The newest records that the filter lets through, the newest first.
  public func history(_ filter: HistoryFilter) -> [Record] {
    let limit = max(1, min(filter.limit, HistoryFilter.most))
    return Array(recent.reversed().lazy.filter(filter.admits).prefix(limit))
  }

  /// Each new record, and each that got its verdict, from now on; the oldest
  /// are dropped for one who does not read.
  public func follow() -> AsyncStream<Record> {
    let (records, continuation) = AsyncStream.makeStream(
      of: Record.self, bufferingPolicy: .bufferingNewest(256))
    nextFollower += 1
    let number = nextFollower
    followers[number] = continuation
    continuation.onTermination = { _ in Task { await self.unfollow(number) } }
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

  /// Where the state is kept.
  public var storage: Storage { .memory("no state directory was asked for") }

  // MARK: Writing

  /// Call it before the write, so that the original is known whatever happens.
  public func willWrite(
    _ new: SysctlValue, over old: SysctlValue, _ adjustment: Adjustment,
    in namespace: NamespaceID, name: String?, tuner: String
  ) {
    let key = Key(namespace: namespace, tunable: adjustment.tunable)
    let now = WallClock.now()
    var holding =
      held[key]
      ?? Holding(
        namespace: namespace, tunable: adjustment.tunable, tuner: tuner, original: old,
        written: old, previous: old, since: now, changes: 0, scenario: "", reason: "")
    holding.tuner = tuner
    holding.previous = old
    holding.written = new
    holding.scenario = adjustment.scenario
    holding.reason = adjustment.reason
    held[key] = holding
  }

  /// The write has taken place.
  public func didWrite(
    _ new: SysctlValue, over old: SysctlValue, _ adjustment: Adjustment,
    in namespace: NamespaceID, name: String?, tuner: String
  ) {
    let tunable = adjustment.tunable
    let key = Key(namespace: namespace, tunable: tunable)
    held[key]?.changes += 1
    administrators[key] = nil
    var total = totals[tunable] ?? Total(first: old, last: new)
    total.changes += 1
    total.scenarios[adjustment.scenario, default: 0] += 1
    total.last = new
    // Enough to say "in 1000 namespaces"; a storm of short ones is not kept.
    if total.namespaces.count < 100_000 { total.namespaces.insert(namespace) }
    totals[tunable] = total
    add(
      Record(
        .change, time: WallClock.now(), tuner: tuner, tunable: tunable.name, namespace: namespace,
        namespaceName: name ?? "", old: "\(old)", new: "\(new)", scenario: adjustment.scenario,
        reason: adjustment.reason))
  }

  /// The write failed: the value is still `old`.
  public func didNotWrite(_ tunable: Tunable, in namespace: NamespaceID, still old: SysctlValue) {
    let key = Key(namespace: namespace, tunable: tunable)
    if held[key]?.changes == 0 { held[key] = nil } else { held[key]?.written = old }
  }

  /// An adjustment that was only advised, or refused.
  public func note(
    _ adjustment: Adjustment, _ outcome: Outcome, in namespace: NamespaceID, name: String?,
    tuner: String
  ) {
    var record = Record(
      .advice, time: WallClock.now(), tuner: tuner, tunable: adjustment.tunable.name,
      namespace: namespace, namespaceName: name ?? "", old: "\(adjustment.assumed)",
      new: "\(adjustment.wanted)", scenario: adjustment.scenario, reason: adjustment.reason)
    switch outcome {
    case .applied: return
    case .advised(let old, let new):
      record.old = "\(old)"
      record.new = "\(new)"
      if let risk = adjustment.risk { record.outcome = "\(risk.name): it \(risk.warning)" }
    case .refused(let refusal):
      record.kind = .refusal
      record.outcome = "\(refusal)"
    }
    add(record)
  }

  /// A write by someone else: the value is theirs from now on.
  public func administratorWrote(
    _ write: AdministratorWrite, in namespace: NamespaceID, name: String?
  ) {
    let key = Key(namespace: namespace, tunable: write.tunable)
    let record = Record(
      .administrator, time: WallClock.now(), tuner: write.tuner, tunable: write.tunable.name,
      namespace: namespace, namespaceName: name ?? "", old: write.old ?? "", new: write.new ?? "",
      reason: "\(write)")
    held[key] = nil
    administrators[key] = record
    add(record)
  }

  /// A tuner was turned off or on by command.
  public func note(_ text: String, tuner: String, in namespace: NamespaceID, name: String?) {
    add(
      Record(
        .note, time: WallClock.now(), tuner: tuner, tunable: "", namespace: namespace,
        namespaceName: name ?? "", old: "", new: "", reason: text))
  }

  /// The original has been put back.
  public func didPutBack(_ holding: Holding, name: String?) {
    held[Key(namespace: holding.namespace, tunable: holding.tunable)] = nil
    add(
      Record(
        .rollback, time: WallClock.now(), tuner: holding.tuner, tunable: holding.tunable.name,
        namespace: holding.namespace, namespaceName: name ?? "", old: "\(holding.written)",
        new: "\(holding.original)"))
  }

  /// The namespace is gone, and its values with it.
  public func forget(_ namespace: NamespaceID) {
    for key in held.keys where key.namespace == namespace { held[key] = nil }
    for key in administrators.keys where key.namespace == namespace { administrators[key] = nil }
  }

  private func add(_ record: Record) {
    var record = record
    record.id = nextID
    nextID += 1
    if recent.count >= HistoryFilter.most { recent.removeFirst(HistoryFilter.most / 2) }
    recent.append(record)
    for follower in followers.values { follower.yield(record) }
  }
}
