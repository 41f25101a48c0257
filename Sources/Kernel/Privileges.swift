import CShims
import Glibc

/// A set of capabilities (include/uapi/linux/capability.h).
public struct Capabilities: OptionSet, Sendable, Hashable, CustomStringConvertible {
  /// A bit for each, by the kernel's number.
  public let rawValue: UInt64

  public init(rawValue: UInt64) { self.rawValue = rawValue }

  private init(number: Int) { rawValue = 1 << UInt64(number) }

  public static let netAdmin = Self(number: 12)
  public static let sysPtrace = Self(number: 19)
  public static let sysAdmin = Self(number: 21)

  /// The kernel's names, by its numbers.
  private static let known = [
    "CHOWN", "DAC_OVERRIDE", "DAC_READ_SEARCH", "FOWNER", "FSETID", "KILL", "SETGID", "SETUID",
    "SETPCAP", "LINUX_IMMUTABLE", "NET_BIND_SERVICE", "NET_BROADCAST", "NET_ADMIN", "NET_RAW",
    "IPC_LOCK", "IPC_OWNER", "SYS_MODULE", "SYS_RAWIO", "SYS_CHROOT", "SYS_PTRACE", "SYS_PACCT",
    "SYS_ADMIN", "SYS_BOOT", "SYS_NICE", "SYS_RESOURCE", "SYS_TIME", "SYS_TTY_CONFIG", "MKNOD",
    "LEASE", "AUDIT_WRITE", "AUDIT_CONTROL", "SETFCAP", "MAC_OVERRIDE", "MAC_ADMIN", "SYSLOG",
    "WAKE_ALARM", "BLOCK_SUSPEND", "AUDIT_READ", "PERFMON", "BPF", "CHECKPOINT_RESTORE",
  ]

  /// `CAP_NET_ADMIN` and so on; one without a name is `CAP_` and its number.
  public var names: [String] {
    (0..<64).filter { rawValue & (1 << UInt64($0)) != 0 }
      .map { "CAP_" + (Self.known.indices.contains($0) ? Self.known[$0] : "\($0)") }
  }

  public var description: String { isEmpty ? "none" : names.joined(separator: ", ") }
}

/// What the process may do.
public enum Privileges {
  /// What the daemon works with once its hooks are attached: CAP_SYS_ADMIN for
  /// `setns` and BPF (it includes CAP_BPF and CAP_PERFMON), CAP_NET_ADMIN for
  /// the sysctls of every namespace, CAP_SYS_PTRACE to follow /proc/PID/ns/net
  /// of processes that hold more than the daemon does, or are another user's.
  public static let kept: Capabilities = [.netAdmin, .sysPtrace, .sysAdmin]

  /// What no part of the daemon can do without.
  private static let needed: Capabilities = [.netAdmin, .sysAdmin]

  /// What is needed and not held.
  public static func missing() -> Capabilities {
    needed.subtracting(held(by: getpid())?.capabilities ?? [])
  }

  /// Gives up everything but these, for good, and what an executed file could
  /// give: of the calling thread and those that it starts later. Any thread that
  /// is there already has to do it for itself.
  public static func giveUp(allBut some: Capabilities) throws(SystemCallFailure) {
    guard bpftune_keep_capabilities(some.rawValue) == 0 else {
      throw SystemCallFailure("capset", "")
    }
  }

  /// What a process holds.
  public struct Held: Sendable {
    /// Of any of its threads.
    public let capabilities: Capabilities
    /// No thread can get more by executing a file (PR_SET_NO_NEW_PRIVS).
    public let noNewPrivileges: Bool
  }

  /// From /proc/PID/task; nil when there is no such process.
  public static func held(by pid: Int32) -> Held? {
    guard let directory = opendir("/proc/\(pid)/task") else { return nil }
    defer { closedir(directory) }
    var capabilities: Capabilities = []
    var noNewPrivileges = true
    while let entry = readdir(directory) {
      let thread = withUnsafeBytes(of: entry.pointee.d_name) { name in
        Int32(String(decoding: name.prefix { $0 != 0 }, as: UTF8.self))
      }
      guard let thread, let bytes = try? contents(of: "/proc/\(pid)/task/\(thread)/status") else {
        continue
      }
      for line in String(decoding: bytes, as: UTF8.self).split(separator: "\n") {
        let value = line.split(separator: "\t").last.map(String.init) ?? ""
        // What is permitted can be made effective at any time.
        if line.hasPrefix("CapPrm:") {
          capabilities.formUnion(Capabilities(rawValue: UInt64(value, radix: 16) ?? 0))
        } else if line.hasPrefix("NoNewPrivs:") {
          noNewPrivileges = noNewPrivileges && value == "1"
        }
      }
    }
    return Held(capabilities: capabilities, noNewPrivileges: noNewPrivileges)
  }
}
