/// One way to get a signal from the kernel.
public struct Hook: Sendable {
  /// The families, as `--hooks` and `check` name them.
  public enum Family: String, CaseIterable, Sendable {
    case tracepoint
    case sockOps = "sock_ops"
    case cgroup
    case iterator
    case request
    case fentry
    case kprobe
    case poll
  }

  public enum Attachment: Sendable {
    /// Where the program's own section says: BTF tracepoints, fentry, kprobes.
    case section(Family)
    /// Reached from the hook on all packets that the kernel drops, for those of
    /// one reason: an enumerator of the kernel's `enum skb_drop_reason`.
    case dropReason(String)
    case cgroup(Family)
    /// A tracepoint of tracefs, for kernel events that BTF does not type.
    case tracepoint(category: String, name: String)
    /// Read in each namespace at that interval, in place of an event.
    case iterator(every: Duration)
    /// Run by user space when it wants to know; reports by events.
    case request
    /// No program: user space looks by itself at that interval.
    case poll(every: Duration)
    /// No program: what user space does anyway when it acts.
    case onAction
  }

  public let attachment: Attachment
  /// Source file in `bpf/` without `.bpf.c`, and the program in it. Empty for polls.
  public let object: String
  public let program: String
  /// What it stands on, in the kernel's words: `tp_btf/tcp_rcv_space_adjust`.
  public let name: String
  /// Kernels from this one on have it, unless they are locked down or were
  /// built without its family; there a refusal is a fault of ours.
  public let minimumKernel: KernelVersion
  /// Variables of the object that are told what a tunable holds when it is
  /// loaded; 0 where that cannot be read.
  public let constants: [String: Tunable]
  /// Older kernels take the program too, but it has no effect there.
  public let isIdleBefore: Bool

  public init(
    _ attachment: Attachment, _ name: String, object: String = "", program: String = "",
    since minimumKernel: KernelVersion = KernelVersion(5, 10), isIdleBefore: Bool = false,
    constants: [String: Tunable] = [:]
  ) {
    self.attachment = attachment
    self.name = name
    self.object = object
    self.program = program
    self.minimumKernel = minimumKernel
    self.isIdleBefore = isIdleBefore
    self.constants = constants
  }

  /// Since when BPF trampolines, and with them fentry, exist on this processor.
  public static var trampolines: KernelVersion {
    #if arch(arm64)
      KernelVersion(6, 4)
    #else
      KernelVersion(5, 10)
    #endif
  }

  public var family: Family {
    switch attachment {
    case .section(let family), .cgroup(let family): family
    case .tracepoint, .dropReason: .tracepoint
    case .iterator: .iterator
    case .request: .request
    case .poll, .onAction: .poll
    }
  }

  /// It is reached from the hook on packets that the kernel drops.
  public var isOfDrops: Bool {
    if case .dropReason = attachment { true } else { false }
  }

  /// Not a choice: it happens anyway.
  var isAlwaysThere: Bool {
    if case .onAction = attachment { true } else { false }
  }

  /// How often user space has to look; nil where the kernel tells by itself.
  public var interval: Duration? {
    switch attachment {
    case .iterator(let every), .poll(let every): every
    default: nil
    }
  }
}

extension Hook.Attachment {
  /// Where libbpf attaches a program in a section of that name; nil for what a
  /// module may not have: programs that could change what an administrator
  /// writes, replace functions, or run only when they are asked to.
  init?(section: String) {
    let parts = section.split(separator: "/", omittingEmptySubsequences: false)
    switch (parts[0], parts.count) {
    case ("tp_btf", 2), ("raw_tp", 2), ("raw_tracepoint", 2): self = .section(.tracepoint)
    case ("tracepoint", 3), ("tp", 3):
      self = .tracepoint(category: String(parts[1]), name: String(parts[2]))
    case ("fentry", 2), ("fexit", 2): self = .section(.fentry)
    case ("kprobe", 2), ("kretprobe", 2): self = .section(.kprobe)
    case ("sockops", 1): self = .cgroup(.sockOps)
    case ("cgroup", 2) where parts[1] != "sysctl": self = .cgroup(.cgroup)
    case ("cgroup_skb", 2): self = .cgroup(.cgroup)
    default: return nil
    }
  }
}

/// Something the kernel can tell, with the hooks that can tell it, in order:
/// cheapest first.
public struct Signal: Sendable {
  public let name: String
  public let hooks: [Hook]
  /// It is of use only where another signal of the same tuner got a hook of
  /// this family; nil: always.
  public let onlyWith: Hook.Family?
  /// Why this kernel does not need it; nil where it does.
  public let notNeeded: @Sendable () -> String?

  public init(
    _ name: String, onlyWith: Hook.Family? = nil,
    notNeeded: @escaping @Sendable () -> String? = { nil }, _ hooks: [Hook]
  ) {
    self.name = name
    self.onlyWith = onlyWith
    self.notNeeded = notNeeded
    self.hooks = hooks
  }
}

/// Which hook a signal got, and why those before it were refused.
public struct SignalReport: Sendable {
  public struct Refusal: Sendable {
    public let hook: String
    public let reason: String
  }

  public let signal: Signal
  public let hook: Hook?
  public let refusals: [Refusal]

  /// For a signal that nothing needs, and why.
  public static func notNeeded(_ signal: Signal, _ why: String) -> SignalReport {
    SignalReport(signal: signal, hook: Hook(.onAction, "not needed: \(why)"), refusals: [])
  }
}
