import Kernel
import Tuners

/// Every signal of the daemon with the hook that it got on this kernel.
struct Hooks: Sendable {
  /// Numbers of the sources of events, as BPF programs put them into records.
  /// Tuners follow, in their order.
  enum Source {
    static let sysctl: UInt16 = 1
    static let namespaces: UInt16 = 2
    static func tuner(_ index: Int) -> UInt16 { 16 + UInt16(index) }
    /// Of tuners from outside.
    static let modules: ClosedRange<UInt16> = 1024...UInt16.max

    /// Those of the tuners, by name.
    static func numbers(_ tuners: [any Policy.Type]) -> [String: UInt16] {
      Dictionary(uniqueKeysWithValues: tuners.enumerated().map { ($1.name, tuner($0)) })
    }
  }

  struct Line: Sendable {
    /// The tuner, or `daemon` for what serves them all.
    let owner: String
    let report: SignalReport

    /// No hook could be had for it.
    var isMissing: Bool { report.hook == nil }
    /// It did not get its first choice.
    var isDegraded: Bool { report.hook != nil && !report.refusals.isEmpty }
  }

  private(set) var lines: [Line] = []
  /// Kept, so that they stay attached.
  private var attached: [Attached] = []
  /// Iterators to run at their interval, in every namespace.
  private(set) var polls: [Attached] = []
  /// Iterators to run once in every namespace that exists already.
  private(set) var adoptions: [Attached] = []
  /// Programs to run when a tuner wants to know how things stand, by tuner.
  private(set) var requests: [String: Attached] = [:]
  /// Maps in which programs read what a policy says, by tuner.
  private(set) var tables: [String: BPFMap] = [:]
  /// How often tuners look by themselves that no hook tells, by tuner.
  private(set) var looks: [String: Duration] = [:]
  /// No hook tells of new namespaces.
  private(set) var missNamespaces = false
  /// A hook tells of namespaces that end.
  private(set) var hearNamespacesEnd = false

  /// Attaches everything that these tuners need. Never fails: what this kernel
  /// refuses stands in `lines`.
  init(programs: Programs, tuners: [any Policy.Type]) throws(BPFObject.Failure) {
    for tuner in tuners {
      for tunable in tuner.tunables { try programs.watch(tunable) }
    }
    attach(SysctlWatch.signal, Source.sysctl, owner: "daemon", programs)
    for signal in NamespaceWatch.signals {
      let hook = attach(signal, Source.namespaces, owner: "daemon", programs)
      let isTold = hook.map { $0.hook.family != .poll } ?? false
      if signal.name == "namespace ended" {
        hearNamespacesEnd = isTold
      } else if !isTold {
        missNamespaces = true
      }
    }
    let ofTheDaemon = lines.count
    for (index, tuner) in tuners.enumerated() {
      let source = Source.tuner(index)
      var families: Set<Hook.Family> = []
      for signal in tuner.signals {
        guard let hook = attach(signal, source, owner: tuner.name, programs) else { continue }
        families.insert(hook.hook.family)
        watch(hook)
        if case .poll(let every) = hook.hook.attachment { looks[tuner.name] = every }
      }
      if let name = tuner.tableName { tables[tuner.name] = try programs.map(name, source: source) }
      if let request = tuner.request {
        requests[tuner.name] = attach(request, source, owner: tuner.name, programs)
      }
      guard let adoption = tuner.adoption else { continue }
      if let family = adoption.onlyWith, !families.contains(family) {
        let report = SignalReport.notNeeded(adoption, "the hooks above see them")
        lines.append(Line(owner: tuner.name, report: report))
      } else if let hook = attach(adoption, source, owner: tuner.name, programs) {
        watch(hook)
      }
    }
    if attached.contains(where: { $0.hook.isOfDrops }) {
      attach(DropWatch.signal, DropWatch.source, owner: "daemon", programs)
      lines.insert(lines.removeLast(), at: ofTheDaemon)
    }
  }

  /// Has an iterator run when it is due.
  private mutating func watch(_ hook: Attached) {
    guard case .iterator(let every) = hook.hook.attachment else { return }
    if every == .zero { adoptions.append(hook) } else { polls.append(hook) }
  }

  @discardableResult
  private mutating func attach(
    _ signal: Signal, _ source: UInt16, owner: String, _ programs: Programs
  ) -> Attached? {
    let (report, hook) = programs.attach(signal, source: source)
    lines.append(Line(owner: owner, report: report))
    if let hook { attached.append(hook) }
    return hook
  }

  /// What runs in the kernel, each program once.
  var programs: [Attached] {
    var seen: Set<String> = []
    return attached.filter { !$0.hook.program.isEmpty && seen.insert($0.hook.program).inserted }
  }

  /// Signals that no hook could be had for.
  var missing: [Line] { lines.filter(\.isMissing) }

  /// Signals that did not get their first choice.
  var degraded: [Line] { lines.filter(\.isDegraded) }
}
