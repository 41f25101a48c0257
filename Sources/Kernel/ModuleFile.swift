import CShims
import Glibc
import SystemPackage

/// The file of a tuner from outside, and whether it can be trusted.
///
/// Whoever can write the file, or replace a directory above it, decides what the
/// daemon loads: so each component of the path is opened by itself, without
/// following links, and what was opened is looked at.
public enum ModuleFile {
  /// Why a path is not taken, with the component that it is about.
  public struct Refusal: Error, Sendable, Equatable, CustomStringConvertible {
    public let description: String

    init(_ component: String, _ reason: String) { description = "\(component) \(reason)" }
  }

  /// Which file it is, and which version of it.
  public struct Identity: Hashable, Sendable {
    let device: UInt64
    let inode: UInt64
    let size: Int64
    let seconds: [Int]
    let nanoseconds: [Int]

    init(_ status: stat) {
      device = UInt64(status.st_dev)
      inode = UInt64(status.st_ino)
      size = Int64(status.st_size)
      seconds = [status.st_mtim.tv_sec, status.st_ctim.tv_sec]
      nanoseconds = [status.st_mtim.tv_nsec, status.st_ctim.tv_nsec]
    }
  }

  /// Whether a tuner can be in a file of that name: `NAME.so`. Package managers
  /// write files under other names first: `NAME.so.dpkg-new`, `NAME.so;5f0c1a2b`.
  public static func isName(_ name: String) -> Bool {
    name.hasSuffix(".so") && name.utf8.count > 3 && !name.hasPrefix(".") && !name.hasPrefix("~")
      && !name.contains(";")
  }

  /// Opens a directory for looking at what is in it; nil when it does not exist.
  public static func openDirectory(_ path: String) throws(Refusal) -> FileDescriptor? {
    guard path.hasPrefix("/"), !path.split(separator: "/").contains("..") else {
      throw Refusal(path, "is no path from the root on")
    }
    var at = "/"
    var fd = Glibc.open("/", BPFTUNE_O_PATH | O_DIRECTORY | O_CLOEXEC)
    var isOpen = fd >= 0
    defer { if isOpen { close(fd) } }
    guard isOpen else { throw refusal(at) }
    try check(fd, at)
    for component in path.split(separator: "/") where component != "." {
      at += (at == "/" ? "" : "/") + component
      let next = openat(
        fd, String(component), BPFTUNE_O_PATH | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC)
      guard next >= 0 else {
        if errno == ENOENT { return nil }
        if isLink(String(component), in: fd) { throw Refusal(at, "is a symbolic link") }
        throw refusal(at)
      }
      close(fd)
      fd = next
      try check(fd, at)
    }
    isOpen = false
    return FileDescriptor(rawValue: fd)
  }

  /// The names in it that a tuner can have.
  public static func names(in directory: FileDescriptor) -> [String] {
    let fd = openat(directory.rawValue, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC)
    guard fd >= 0 else { return [] }
    guard let stream = fdopendir(fd) else {
      close(fd)
      return []
    }
    defer { closedir(stream) }
    var names: [String] = []
    while let entry = readdir(stream) {
      let name = withUnsafeBytes(of: entry.pointee.d_name) {
        String(decoding: $0.prefix { $0 != 0 }, as: UTF8.self)
      }
      if isName(name) { names.append(name) }
    }
    return names.sorted()
  }

  /// Which file goes by that name now; nil when none does.
  public static func identity(_ name: String, in directory: FileDescriptor) -> Identity? {
    var status = stat()
    guard fstatat(directory.rawValue, name, &status, AT_SYMLINK_NOFOLLOW) == 0 else { return nil }
    return Identity(status)
  }

  /// Opens the file for reading; `path` is for the words.
  public static func open(
    _ name: String, in directory: FileDescriptor, path: String
  ) throws(Refusal) -> FileDescriptor {
    if isLink(name, in: directory.rawValue) { throw Refusal(path, "is a symbolic link") }
    let fd = openat(
      directory.rawValue, name, O_RDONLY | O_NOFOLLOW | O_NONBLOCK | O_CLOEXEC)
    guard fd >= 0 else { throw refusal(path) }
    do throws(Refusal) {
      try check(fd, path)
      var status = stat()
      guard fstat(fd, &status) == 0, status.st_mode & S_IFMT == S_IFREG else {
        throw Refusal(path, "is no regular file")
      }
    } catch {
      close(fd)
      throw error
    }
    return FileDescriptor(rawValue: fd)
  }

  private static func check(_ fd: Int32, _ component: String) throws(Refusal) {
    var status = stat()
    guard fstat(fd, &status) == 0 else { throw refusal(component) }
    guard status.st_uid == 0 else {
      throw Refusal(component, "belongs to user \(status.st_uid), not to root")
    }
    guard status.st_mode & (S_IWGRP | S_IWOTH) == 0 else {
      let mode = String(status.st_mode & 0o7777, radix: 8)
      throw Refusal(component, "can be written by group or others (mode \(mode))")
    }
  }

  private static func isLink(_ name: String, in directory: Int32) -> Bool {
    var status = stat()
    return fstatat(directory, name, &status, AT_SYMLINK_NOFOLLOW) == 0
      && status.st_mode & S_IFMT == S_IFLNK
  }

  private static func refusal(_ component: String) -> Refusal {
    Refusal(component, "cannot be opened: \(Errno(rawValue: errno))")
  }
}
