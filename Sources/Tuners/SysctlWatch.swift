public import Kernel
public import Logging

/// Hears of every write to a tunable by anyone but the daemon, and has the
/// tuners that change it disabled where the value counts.
public actor SysctlWatch {
  /// Where the kernel cannot tell, a write is noticed before the next change:
  /// the value then is not the one that was written last.
  public static let signal = Signal(
    "sysctl written",
    [
      Hook(
        .cgroup(.cgroup), "cgroup/sysctl", object: "sysctl_watch", program: "sysctl_watch"),
      Hook(.onAction, "compare before write"),
    ])

  /// `enum sysctl_watch_scenario` in bpf/sysctl_watch.bpf.c.
  public enum Scenario: UInt16, CaseIterable, Sendable {
    case written = 1
    /// So many in a second that the kernel side does not send the rest.
    case flood = 2
  }

  private let loop: KernelLoop
  public nonisolated var unownedExecutor: UnownedSerialExecutor {
    loop.asUnownedSerialExecutor()
  }

  private let namespaces: any NamespaceProvider
  private let log: Logger
  private var tunables: [String: (tunable: Tunable, tuners: [String])] = [:]

  public init(
    tuners: [TunerDescription], loop: KernelLoop, namespaces: any NamespaceProvider, log: Logger
  ) {
    self.loop = loop
    self.namespaces = namespaces
    self.log = log
    for tuner in tuners {
      for tunable in tuner.tunables {
        tunables[tunable.path, default: (tunable, [])].tuners.append(tuner.name)
      }
    }
  }

  /// Another tuner, which is the only one of its tunables.
  public func add(_ tuner: TunerDescription) {
    for tunable in tuner.tunables { tunables[tunable.path] = (tunable, [tuner.name]) }
  }

  public func remove(_ tuner: TunerDescription) {
    for tunable in tuner.tunables { tunables[tunable.path] = nil }
  }

  public func run(_ events: AsyncStream<KernelEvent>) async {
    for await event in events { await handle(event) }
  }

  /// A tunable by its path, also one that a device has.
  private func tunable(atPath path: String) -> (Tunable, [String])? {
    if let known = tunables[path] { return known }
    for (pattern, tuners) in tunables.values {
      if let device = pattern.device(inPath: path) { return (pattern.of(device: device), tuners) }
    }
    return nil
  }

  private func handle(_ event: KernelEvent) async {
    guard Scenario(rawValue: event.scenario) != .flood else { return await giveUp(event) }
    guard case .sysctlWrite(let command, let name, let old, let new) = event.payload,
      let (tunable, owners) = tunable(atPath: name)
    else { return }
    let writes = owners.map {
      AdministratorWrite(
        tunable: tunable, tuner: $0, process: event.process, command: command, old: old, new: new)
    }
    guard let write = writes.first else { return }
    guard let before = SysctlValue(old, arity: tunable.arity) else {
      log.warning("cannot tell what \(write) means: \"\(old)\" is no \(tunable.arity)")
      return
    }
    guard let after = before.overwritten(by: new, arity: tunable.arity) else {
      log.debug("\(write): not a value that the kernel takes, ignoring")
      return
    }
    guard after != before else {
      log.debug("\(write): the value that was there already, ignoring")
      return
    }
    switch tunable.scope {
    case .perNamespace:
      let namespace = await namespaces.namespace(event.namespace)
      for write in writes { namespace.administratorWrote(write) }
    case .global:
      for write in writes { await namespaces.administratorWroteGlobally(write) }
    }
  }

  /// What is written there cannot be followed: every tuner leaves it alone.
  private func giveUp(_ event: KernelEvent) async {
    guard case .sysctlWrite(let command, _, _, _) = event.payload else { return }
    let namespace = await namespaces.namespace(event.namespace)
    var told: Set<String> = []
    for (tunable, owners) in tunables.values.sorted(by: { $0.tunable.name < $1.tunable.name }) {
      for tuner in owners where told.insert(tuner).inserted {
        namespace.administratorWrote(
          AdministratorWrite(
            tunable: tunable, tuner: tuner, process: event.process, command: command, old: nil,
            new: nil))
      }
    }
  }
}
