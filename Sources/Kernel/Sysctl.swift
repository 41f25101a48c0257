import Glibc
import SystemPackage

/// Reading and writing tunables in the network namespace of the calling thread.
///
/// /proc/sys/net shows the namespace of whoever opens the file (`net_ctl_root`
/// in net/sysctl_net.c), so `NamespaceDirectory.inside` comes first.
public enum Sysctl {
  public enum Failure: Error, Sendable, CustomStringConvertible {
    /// This kernel, or this namespace, does not have the tunable.
    case absent(Tunable)
    /// The file does not hold what the tunable's arity says.
    case unreadable(Tunable, text: String)
    case failed(Tunable, SystemCallFailure)
    case netlink(Tunable, NetlinkFailure)
    /// The kernel took the value but shows another.
    case notTaken(Tunable, wrote: SysctlValue, reads: SysctlValue)

    public var description: String {
      switch self {
      case .absent(let tunable): "\(tunable.name) does not exist here"
      case .unreadable(let tunable, let text):
        "\(tunable.name) holds \"\(text)\", which is no \(tunable.arity)"
      case .failed(_, let failure): failure.description
      case .netlink(let tunable, let failure): "\(tunable.name): \(failure)"
      case .notTaken(let tunable, let wrote, let reads):
        "\(tunable.name) reads \(reads) after \(wrote) was written"
      }
    }
  }

  public static func read(_ tunable: Tunable) throws(Failure) -> SysctlValue {
    try withFile(of: tunable, O_RDONLY) { (fd) throws(Failure) in try value(of: tunable, fd) }
  }

  /// The devices that have a tunable with `*` in its name, without `all` and
  /// `default`; at most 64.
  public static func devices(of tunable: Tunable) -> [String] {
    guard let parent = tunable.path.split(separator: "*", maxSplits: 1).first,
      let directory = opendir("/proc/sys/" + parent)
    else { return [] }
    defer { closedir(directory) }
    var names: [String] = []
    while names.count < 64, let entry = readdir(directory) {
      let name = withUnsafeBytes(of: entry.pointee.d_name) {
        String(decoding: $0.prefix { $0 != 0 }, as: UTF8.self)
      }
      if ![".", "..", "all", "default"].contains(name) { names.append(name) }
    }
    return names.sorted()
  }

  /// Writes `new` where `old` still stands, and reads back what the kernel made
  /// of it. Returns what stands there instead of `old`, in which case nothing
  /// was written; nil when it was.
  public static func replace(
    _ tunable: Tunable, _ old: SysctlValue, with new: SysctlValue
  ) throws(Failure) -> SysctlValue? {
    let flags = if case .neighbourTable = tunable.means { O_RDONLY } else { O_RDWR }
    return try withFile(of: tunable, flags) { (fd) throws(Failure) in
      let current = try value(of: tunable, fd)
      guard current == old else { return current }
      try write(tunable, new, fd)
      let reads = try value(of: tunable, fd)
      guard reads == new else { throw .notTaken(tunable, wrote: new, reads: reads) }
      return nil
    }
  }

  private static func write(
    _ tunable: Tunable, _ value: SysctlValue, _ fd: Int32
  ) throws(Failure) {
    switch tunable.means {
    case .file, .congestionControls:
      if case .congestionControls = tunable.means { CongestionControl.load(value) }
      var text = value.description
      let (written, length) = text.withUTF8 { (pwrite(fd, $0.baseAddress, $0.count, 0), $0.count) }
      guard written == length else {
        // The kernel has no such algorithm, nor a module of it.
        if case .congestionControls = tunable.means, errno == ENOENT { throw .absent(tunable) }
        throw .failed(tunable, SystemCallFailure("write \"\(value)\" to", tunable.name))
      }
    case .neighbourTable(let table, let threshold):
      do {
        try table.set(threshold: threshold, to: value.maximum ?? 0)
      } catch {
        throw .netlink(tunable, error)
      }
    }
  }

  private static func withFile<R>(
    of tunable: Tunable, _ flags: Int32, _ body: (Int32) throws(Failure) -> R
  ) throws(Failure) -> R {
    let path = "/proc/sys/" + tunable.path
    let fd = open(path, flags | O_CLOEXEC)
    guard fd >= 0 else {
      let failure = SystemCallFailure("open", path)
      throw failure.errno == .noSuchFileOrDirectory ? .absent(tunable) : .failed(tunable, failure)
    }
    defer { close(fd) }
    return try body(fd)
  }

  private static func value(of tunable: Tunable, _ fd: Int32) throws(Failure) -> SysctlValue {
    let text: String? = withUnsafeTemporaryAllocation(of: UInt8.self, capacity: 4096) { buffer in
      let count = pread(fd, buffer.baseAddress, buffer.count, 0)
      return count < 0 ? nil : String(decoding: buffer[..<count], as: UTF8.self)
    }
    guard let text else { throw .failed(tunable, SystemCallFailure("read", tunable.name)) }
    guard let value = SysctlValue(text, arity: tunable.arity) else {
      throw .unreadable(tunable, text: text)
    }
    return value
  }
}
