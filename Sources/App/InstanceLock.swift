import ArgumentParser
import CShims
import Glibc

/// Sees to it that one daemon runs at a time. The lock ends with the process,
/// however it ends.
struct InstanceLock: ~Copyable {
  static let directory = "/run/bpftune"
  private static let path = directory + "/lock"
  private let fd: Int32

  /// The daemon that runs, if one does and its process can be seen from here.
  static func holder() -> pid_t? {
    let fd = open(path, O_RDONLY | O_CLOEXEC | O_NOFOLLOW)
    guard fd >= 0 else { return nil }
    defer { close(fd) }
    let pid = bpftune_lock_holder(fd)
    return pid > 0 ? pid : nil
  }

  init() throws {
    let path = Self.path
    guard mkdir(Self.directory, 0o755) == 0 || errno == EEXIST else {
      throw Failure("cannot create \(Self.directory): \(errorText())", exit: .failure)
    }
    let fd = open(path, O_RDWR | O_CREAT | O_CLOEXEC | O_NOFOLLOW, 0o600)
    guard fd >= 0 else {
      throw Failure("cannot open \(path): \(errorText())", exit: .failure)
    }
    let holder = bpftune_lock(fd)
    guard holder == 0 else {
      let error = errorText()
      close(fd)
      throw Failure(
        holder < 0
          ? "cannot lock \(path): \(error)"
          : "already running with pid \(holder); stop that one first (kill \(holder))",
        exit: .failure)
    }
    self.fd = fd
  }

  deinit { close(fd) }
}
