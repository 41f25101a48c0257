import CShims
import Glibc
import SystemPackage

/// Loads and attaches BPF programs, and owns what they share: the ring buffer,
/// the folding of repeats, the count of lost events.
public final class Programs: @unchecked Sendable {
  // Safe: it is made before the kernel loop runs, and used on that loop after.

  public enum Failure: Error, Sendable, CustomStringConvertible {
    case noTypeInformation
    case refused(BPFObject.Failure)

    public var description: String {
      switch self {
      case .noTypeInformation:
        "this kernel has no type information at /sys/kernel/btf/vmlinux; it has to be built"
          + " with CONFIG_DEBUG_INFO_BTF=y"
      case .refused(let failure):
        "the kernel refuses BPF: \(failure); it needs CAP_BPF and CAP_NET_ADMIN and"
          + " a kernel of 5.8 or newer"
      }
    }
  }

  let ring: BPFMap
  private let folds: BPFMap
  private let lost: BPFMap
  private let watchedSysctls: BPFMap
  private let missedWrites: BPFMap
  private let closedGates: BPFMap
  private let dryRun: Bool
  private let cgroup: CgroupRoot
  private let families: Set<Hook.Family>
  /// Ports whose sockets may not lock their buffers; 0 ends the list.
  private let overridePorts: InlineArray<16, UInt16>
  public static let mostOverridePorts = 16
  /// What is attached, by source, program and where: a hook that serves two
  /// signals of a source runs once.
  private var attached: [UInt16: [String: Attached]] = [:]
  /// Objects that are not of this executable, by the source of their events.
  private var images: [UInt16: [UInt8]] = [:]
  /// What was loaded, by source: an object shares the maps of those before it
  /// that go by the same names.
  private var loaded: [UInt16: [BPFObject]] = [:]

  /// The thread group id of the daemon as BPF programs see it; it differs from
  /// `getpid()` in a container.
  private var ownThreadGroup = UInt32(getpid())

  /// The families of hooks that may be used; all by default. In a dry run,
  /// programs that act by themselves do not.
  public init(
    cgroup: CgroupRoot, families: Set<Hook.Family> = Set(Hook.Family.allCases),
    dryRun: Bool = false, overridePorts: [UInt16] = []
  ) throws(Failure) {
    guard access("/sys/kernel/btf/vmlinux", R_OK) == 0 else { throw .noTypeInformation }
    self.cgroup = cgroup
    self.families = families
    self.dryRun = dryRun
    self.overridePorts = InlineArray { $0 < overridePorts.count ? overridePorts[$0] : 0 }
    do {
      ring = try BPFMap("events", BPF_MAP_TYPE_RINGBUF, maxEntries: 256 * 1024)
      folds = try BPFMap(
        "folds", BPF_MAP_TYPE_LRU_HASH, keySize: 16, valueSize: 32, maxEntries: 4096)
      lost = try BPFMap("lost", BPF_MAP_TYPE_PERCPU_ARRAY, keySize: 4, valueSize: 8, maxEntries: 1)
      watchedSysctls = try BPFMap(
        "watched_sysctls", BPF_MAP_TYPE_HASH, keySize: Int(BPFTUNE_SYSCTL_NAME), valueSize: 4,
        maxEntries: 512)
      missedWrites = try BPFMap(
        "missed_writes", BPF_MAP_TYPE_HASH, keySize: 16 + Int(BPFTUNE_SYSCTL_NAME),
        valueSize: MemoryLayout<bpftune_sysctl_event>.size, maxEntries: 1024,
        flags: UInt32(BPF_F_NO_PREALLOC))
      closedGates = try BPFMap(
        "closed_gates", BPF_MAP_TYPE_HASH, keySize: 16, valueSize: 4, maxEntries: 65536,
        flags: UInt32(BPF_F_NO_PREALLOC))
    } catch {
      throw .refused(error)
    }
    if let object = try? open("sysctl_watch", source: 0),
      (try? object.load(["sysctl_watch_whoami"])) != nil,
      let id = try? object.run("sysctl_watch_whoami")
    {
      ownThreadGroup = id
    }
  }

  /// The ring buffer, for a consumer other than `EventPump`.
  public var ringDescriptor: Int32 { ring.fd }

  /// Events that found the ring buffer full.
  public var lostEvents: UInt64 { lost.sumOverCPUs() }

  /// Records of writes to tunables that found the ring buffer full; each is
  /// given out once. For a map that is full too there is only the count.
  func takeMissedWrites() -> [[UInt8]] {
    // The version comes last: without it, one is being filled in right now.
    let found = missedWrites.entries().filter { $0.value[0] != 0 || $0.value[1] != 0 }
    for entry in found { missedWrites.remove(key: entry.key) }
    return found.map(\.value)
  }

  /// Where tuners may not act, by their names and the sources of their events.
  public func gates(of sources: [String: UInt16]) -> Gates {
    Gates(closedGates, sources: sources)
  }

  /// A map of the objects that were loaded for a source.
  public func map(_ name: String, source: UInt16) throws(BPFObject.Failure) -> BPFMap? {
    for object in loaded[source] ?? [] {
      if let map = try object.map(name) { return map }
    }
    return nil
  }

  /// Adds a tunable to those whose writes are reported.
  public func watch(_ tunable: Tunable) throws(BPFObject.Failure) {
    if let key = Self.key(of: tunable) { try watchedSysctls.set(key: key, to: UInt32(1)) }
  }

  /// Its writes are not reported any more.
  public func unwatch(_ tunable: Tunable) {
    if let key = Self.key(of: tunable) { watchedSysctls.remove(key: key) }
  }

  private static func key(of tunable: Tunable) -> [UInt8]? {
    let name = Array(tunable.watchedName.utf8)
    let size = Int(BPFTUNE_SYSCTL_NAME)
    guard name.count < size else { return nil }
    return name + [UInt8](repeating: 0, count: size - name.count)
  }

  /// Takes the hooks of a source from this object, which is not of this
  /// executable, in place of the one that they name.
  public func provide(_ object: [UInt8], for source: UInt16) { images[source] = object }

  /// The signals of a module with their hooks, by the sections of the programs in
  /// its object, which was provided for this source.
  public func signals(
    of module: ModuleDescription, source: UInt16
  ) throws(ModuleDescription.Nonsense) -> [Signal] {
    let object: BPFObject
    do {
      object = try BPFObject(module.name, images[source] ?? [])
    } catch {
      throw .init("its BPF object: \(error)")
    }
    var signals: [Signal] = []
    for signal in module.signals {
      var hooks: [Hook] = []
      for program in signal.programs {
        guard let section = try? object.section(of: program) else {
          throw .init("its BPF object has no program \"\(program)\"")
        }
        guard let attachment = Hook.Attachment(section: section) else {
          throw .init("its program \(program) is in section \(section), which a module cannot have")
        }
        hooks.append(Hook(attachment, section, object: module.name, program: program))
      }
      signals.append(Signal(signal.name, hooks))
    }
    return signals
  }

  /// Lets go of all that was attached and loaded for a source: it is gone from
  /// the kernel once the hooks are let go of, too.
  public func detach(_ source: UInt16) {
    attached[source] = nil
    loaded[source] = nil
    images[source] = nil
  }

  /// Attaches the first hook of the signal that this kernel takes. Never
  /// fails: without any, the report has no hook.
  public func attach(_ signal: Signal, source: UInt16) -> (SignalReport, Attached?) {
    var refusals: [SignalReport.Refusal] = []
    if let why = signal.notNeeded() { return (.notNeeded(signal, why), nil) }
    for hook in signal.hooks {
      guard hook.isAlwaysThere || families.contains(hook.family) else {
        refusals.append(.init(hook: hook.name, reason: "left out by --hooks"))
        continue
      }
      guard !hook.isIdleBefore || KernelVersion.running >= hook.minimumKernel else {
        let why = "has no effect before Linux \(hook.minimumKernel)"
        refusals.append(.init(hook: hook.name, reason: why))
        continue
      }
      do {
        let report = SignalReport(signal: signal, hook: hook, refusals: refusals)
        let key = "\(hook.program) at \(hook.name)"
        if let there = attached[source]?[key] { return (report, there) }
        let new = try attach(hook, source: source)
        if !hook.program.isEmpty { attached[source, default: [:]][key] = new }
        return (report, new)
      } catch {
        refusals.append(.init(hook: hook.name, reason: Lockdown.reason(hook, error)))
      }
    }
    return (SignalReport(signal: signal, hook: nil, refusals: refusals), nil)
  }

  private func open(_ name: String, source: UInt16) throws(BPFObject.Failure) -> BPFObject {
    let image = images[source]
    let object: BPFObject
    if let image {
      object = try BPFObject(name, image)
    } else {
      object = try BPFObject(named: name)
    }
    try object.setConstant("source_id", to: source)
    try object.setConstant("own_tgid", to: ownThreadGroup)
    try object.setConstant("dry_run", to: UInt8(dryRun ? 1 : 0))
    try object.setConstant("override_ports", to: overridePorts)
    try object.setConstant("hz", to: KernelEvent.ticksPerSecond)
    for map in [ring, folds, lost] { try object.share(map) }
    if image == nil {
      for map in [watchedSysctls, missedWrites, closedGates] { try object.share(map) }
    }
    for other in loaded[source] ?? [] { try object.shareMaps(of: other) }
    return object
  }

  private func attach(_ hook: Hook, source: UInt16) throws(BPFObject.Failure) -> Attached {
    var dropWatch: Attached?
    switch hook.attachment {
    case .poll, .onAction: return Attached(hook: hook, object: nil)
    default: break
    }
    let object = try open(hook.object, source: source)
    for (variable, tunable) in hook.constants {
      let value = (try? Sysctl.read(tunable))?.maximum ?? 0
      try object.setConstant(variable, to: UInt32(clamping: value))
    }
    try object.load([hook.program])
    switch hook.attachment {
    case .section, .iterator: try object.attach(hook.program)
    case .cgroup: try object.attach(hook.program, cgroup: cgroup.descriptor)
    case .tracepoint(let category, let name):
      try object.attach(hook.program, tracepoint: name, category: category)
    case .dropReason(let reason):
      let number = try DropWatch.number(of: reason)
      dropWatch = try watchDrops()
      try map(DropWatch.handlers, source: DropWatch.source)?.set(
        key: withUnsafeBytes(of: number) { Array($0) }, to: object.descriptor(of: hook.program))
    case .request, .poll, .onAction: break
    }
    loaded[source, default: []].append(object)
    return Attached(hook: hook, object: object, reachedFrom: dropWatch)
  }

  /// The hook on all packets that the kernel drops.
  private func watchDrops() throws(BPFObject.Failure) -> Attached {
    let (report, attached) = attach(DropWatch.signal, source: DropWatch.source)
    guard let attached else {
      let why = report.refusals.map { "\($0.hook): \($0.reason)" }.joined(separator: "; ")
      throw BPFObject.Failure("watch packets that are dropped", errno: .notSupported, detail: why)
    }
    return attached
  }
}

/// A hook that is attached, until this is let go.
public final class Attached: @unchecked Sendable {
  // Safe: nothing in it changes after `init`, and what `iterate` does to the
  // object is read its links.

  public let hook: Hook
  private let object: BPFObject?
  /// What its program is called by; kept attached.
  private let reachedFrom: Attached?

  init(hook: Hook, object: BPFObject?, reachedFrom: Attached? = nil) {
    self.hook = hook
    self.object = object
    self.reachedFrom = reachedFrom
  }

  /// How often its program has run and for how long altogether; nil where there
  /// is none, while the kernel does not count, and for one that is reached from
  /// another, which counts for both.
  public func runTime() -> (calls: UInt64, nanoseconds: UInt64)? {
    guard let object, reachedFrom == nil, Self.isTimed else { return nil }
    return try? object.runTime(of: hook.program)
  }

  private static var isTimed: Bool {
    (try? contents(of: "/proc/sys/kernel/bpf_stats_enabled", limit: 16))?.first
      == UInt8(ascii: "1")
  }

  /// Runs an iterator hook over the calling thread's network namespace.
  public func iterate() throws(BPFObject.Failure) { try object?.iterate() }

  /// Runs a hook on request, an iterator over the calling thread's network
  /// namespace: what it has to tell comes as events.
  public func request() throws(BPFObject.Failure) {
    if case .iterator = hook.attachment { return try iterate() }
    _ = try object?.run(hook.program)
  }
}
