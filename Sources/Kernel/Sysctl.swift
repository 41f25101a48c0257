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
    let bytes: [UInt8]
    do {
      bytes = try contents(of: "/proc/sys/" + tunable.path, limit: 4096)
    } catch {
      throw error.errno == .noSuchFileOrDirectory ? .absent(tunable) : .failed(tunable, error)
    }
    let text = String(decoding: bytes, as: UTF8.self)
    guard let value = SysctlValue(text, arity: tunable.arity) else {
      throw .unreadable(tunable, text: text)
    }
    return value
  }

  /// Writes, and reads back what the kernel made of it.
  public static func write(_ tunable: Tunable, _ value: SysctlValue) throws(Failure) {
    switch tunable.means {
    case .file: try writeFile(tunable, value)
    case .neighbourTable(let table, let threshold):
      do {
        try table.set(threshold: threshold, to: value.maximum ?? 0)
      } catch {
        throw .netlink(tunable, error)
      }
    }
    let reads = try read(tunable)
    guard reads == value else { throw .notTaken(tunable, wrote: value, reads: reads) }
  }

  private static func writeFile(_ tunable: Tunable, _ value: SysctlValue) throws(Failure) {
    let path = "/proc/sys/" + tunable.path
    let fd = open(path, O_WRONLY | O_CLOEXEC)
    guard fd >= 0 else {
      let failure = SystemCallFailure("open", path)
      throw failure.errno == .noSuchFileOrDirectory ? .absent(tunable) : .failed(tunable, failure)
    }
    defer { close(fd) }
    var text = value.description
    let (written, length) = text.withUTF8 { (Glibc.write(fd, $0.baseAddress, $0.count), $0.count) }
    guard written == length else {
      throw .failed(tunable, SystemCallFailure("write \"\(value)\" to", path))
    }
  }
}
