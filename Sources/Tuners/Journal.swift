public import Kernel

/// What the daemon changed: each tunable's value before its first change, the
/// value that it wrote last, and how often and why it wrote.
public actor Journal {
  public struct Entry: Sendable {
    /// Before the first change: what a roll back restores.
    public let original: SysctlValue
    /// What was written last.
    public internal(set) var written: SysctlValue
    public internal(set) var changes = 0
    /// How often for each scenario.
    public internal(set) var scenarios: [String: Int] = [:]
    public let tuner: String
  }

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

  private var entries: [Key: Entry] = [:]
  public private(set) var totals: [Tunable: Total] = [:]

  public init(loop: KernelLoop) { self.loop = loop }

  public func entry(_ tunable: Tunable, in namespace: NamespaceID) -> Entry? {
    entries[Key(namespace: namespace, tunable: tunable)]
  }

  /// Call it before the write, so that the original is known whatever happens.
  public func willWrite(
    _ new: SysctlValue, over old: SysctlValue, _ tunable: Tunable, in namespace: NamespaceID,
    tuner: String
  ) {
    let key = Key(namespace: namespace, tunable: tunable)
    entries[key, default: Entry(original: old, written: old, tuner: tuner)].written = new
  }

  /// The write has taken place.
  public func didWrite(
    _ new: SysctlValue, over old: SysctlValue, _ tunable: Tunable, in namespace: NamespaceID,
    scenario: String
  ) {
    let key = Key(namespace: namespace, tunable: tunable)
    entries[key]?.changes += 1
    entries[key]?.scenarios[scenario, default: 0] += 1
    var total = totals[tunable] ?? Total(first: old, last: new)
    total.changes += 1
    total.scenarios[scenario, default: 0] += 1
    total.last = new
    // Enough to say "in 1000 namespaces"; a storm of short ones is not kept.
    if total.namespaces.count < 100_000 { total.namespaces.insert(namespace) }
    totals[tunable] = total
  }

  /// The write failed: the value is still `old`.
  public func didNotWrite(_ tunable: Tunable, in namespace: NamespaceID, still old: SysctlValue) {
    let key = Key(namespace: namespace, tunable: tunable)
    if entries[key]?.changes == 0 { entries[key] = nil } else { entries[key]?.written = old }
  }

  /// The value is not ours any more: it will not be put back.
  public func release(_ tunable: Tunable, in namespace: NamespaceID) {
    entries[Key(namespace: namespace, tunable: tunable)] = nil
  }

  /// The namespace is gone, and its values with it.
  public func forget(_ namespace: NamespaceID) {
    for key in entries.keys where key.namespace == namespace { entries[key] = nil }
  }

  /// What would be put back, by namespace.
  public func changed() -> [NamespaceID: [(Tunable, Entry)]] {
    Dictionary(grouping: entries.map { ($0.key, $0.value) }, by: { $0.0.namespace })
      .mapValues { $0.map { ($0.0.tunable, $0.1) } }
  }
}
