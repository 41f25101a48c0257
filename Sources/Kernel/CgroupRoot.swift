import Glibc
import SystemPackage

/// The root of the cgroup v2 hierarchy: cgroup programs attached there hear of
/// every process and socket of the machine.
public final class CgroupRoot {
  public enum Failure: Error, Sendable, CustomStringConvertible {
    case notMounted
    case unusable(SystemCallFailure)

    public var description: String {
      switch self {
      case .notMounted:
        "no cgroup v2 hierarchy is mounted; mount one (mount -t cgroup2 none /sys/fs/cgroup)"
          + " or name its directory with --cgroup"
      case .unusable(let failure):
        "\(failure); name the root of a cgroup v2 hierarchy with --cgroup"
      }
    }
  }

  public let path: String
  let descriptor: Int32

  /// Opens `path`, or finds where cgroup v2 is mounted, alone or beside v1.
  public init(path: String? = nil) throws(Failure) {
    guard let path = path ?? Self.mountPoint() else { throw .notMounted }
    descriptor = open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC)
    guard descriptor >= 0 else { throw .unusable(SystemCallFailure("open", path)) }
    self.path = path
    // Every cgroup v2 directory has this file, and no other directory has.
    guard faccessat(descriptor, "cgroup.controllers", R_OK, 0) == 0 else {
      throw .unusable(SystemCallFailure("read", path + "/cgroup.controllers"))
    }
  }

  deinit { if descriptor >= 0 { close(descriptor) } }

  private static func mountPoint() -> String? {
    guard let bytes = try? contents(of: "/proc/self/mountinfo") else { return nil }
    for line in String(decoding: bytes, as: UTF8.self).split(separator: "\n") {
      guard let dash = line.firstRange(of: " - ") else { continue }
      let fields = line[..<dash.lowerBound].split(separator: " ")
      if line[dash.upperBound...].hasPrefix("cgroup2 "), fields.count > 4 {
        return String(fields[4])
      }
    }
    return nil
  }
}
