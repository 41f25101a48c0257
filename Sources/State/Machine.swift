import Glibc
import Kernel

/// Which machine this is, and which boot of it.
public struct Machine: Sendable, Equatable {
  /// /proc/sys/kernel/random/boot_id: cookies and inode numbers of namespaces
  /// mean something within one boot only.
  public var boot: String
  /// /etc/machine-id; empty where there is none.
  public var id: String
  /// The kernel's series: `6.18`.
  public var kernel: String
  public var processors: Int64
  /// Pages of memory.
  public var memory: Int64

  /// This one, now.
  public static func current() -> Machine {
    Machine(
      boot: line("/proc/sys/kernel/random/boot_id"), id: line("/etc/machine-id"),
      kernel: line("/proc/sys/kernel/osrelease").split(separator: ".").prefix(2)
        .joined(separator: "."),
      processors: Int64(sysconf(Int32(_SC_NPROCESSORS_CONF))),
      memory: Int64(sysconf(Int32(_SC_PHYS_PAGES))))
  }

  /// Whether what was learned on the other fits here: the same machine, kernel
  /// series and processors, and as much memory but for a sixteenth.
  public func isLike(_ other: Machine) -> Bool {
    !id.isEmpty && id == other.id && kernel == other.kernel && processors == other.processors
      && memory > 0 && (memory - other.memory).magnitude <= (memory / 16).magnitude
  }

  /// As the state file has it.
  var text: String { "\(boot) \(id) \(kernel) \(processors) \(memory)" }

  public init(boot: String, id: String, kernel: String, processors: Int64, memory: Int64) {
    self.boot = boot
    self.id = id
    self.kernel = kernel
    self.processors = processors
    self.memory = memory
  }

  init?(text: String) {
    let words = text.split(separator: " ", omittingEmptySubsequences: false).map(String.init)
    guard words.count == 5, let processors = Int64(words[3]), let memory = Int64(words[4]),
      memory > 0
    else { return nil }
    self.init(
      boot: words[0], id: words[1], kernel: words[2], processors: processors, memory: memory)
  }

  private static func line(_ path: String) -> String {
    guard let bytes = try? contents(of: path, limit: 256) else { return "" }
    return String(decoding: bytes.prefix { $0 != UInt8(ascii: "\n") }, as: UTF8.self)
  }
}
