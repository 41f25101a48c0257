# bpftune. `make run` and `make test` are all that one needs to know; both
# install what is missing first (as root).

PREFIX ?= /usr/local
DESTDIR ?=
SWIFT ?= swift
# No path of this checkout goes into what is built, and no library is looked for
# beside the executable (which is also what a static one cannot start with).
RELEASE = --configuration release --static-swift-stdlib --disable-local-rpath \
	-Xswiftc -file-prefix-map -Xswiftc $(CURDIR)=. -Xcc -ffile-prefix-map=$(CURDIR)=.
VERSION := $(shell sed -n 's/.*let version = "\(.*\)"/\1/p' Sources/App/Bpftune.swift)
# Of the packages, where the same version is packaged once more.
REVISION ?= 1
PACKAGES = .build/packages
# The time of the last commit stands for that of the build, so that the same
# commit gives the same bytes.
export SOURCE_DATE_EPOCH ?= $(shell git log -1 --format=%ct 2>/dev/null || echo 0)
# What `make run` passes to the daemon.
ARGS ?= --foreground --verbose

# Chosen on the command line or in the environment.
export KERNEL TESTS

.PHONY: run test test-long build install bench lint demo clean deps test-vm new-tuner \
	check-new-tuner deb rpm tarball sign test-service test-packages test-bare test-arm64

## run: build, and run the daemon in the foreground until Ctrl-C
run: build
	.build/release/bpftune $(ARGS)

## test: the tests but for the long ones; the integration tests need root
test: deps
	$(SWIFT) build --build-tests
	$(SWIFT) test --skip-build --skip 'LongTests|/testLong'

## test-long: the tests that take long, by their names
test-long: deps
	$(SWIFT) build --build-tests
	$(SWIFT) test --skip-build --filter 'LongTests|/testLong'

## build: the release executable, .build/release/bpftune
build: deps
	$(SWIFT) build $(RELEASE) --product bpftune-module-host
	$(SWIFT) build $(RELEASE) --product bpftune

## install: all that belongs to the service, below DESTDIR and PREFIX
install: build
	packaging/install .build/release/bpftune "$(DESTDIR)" $(PREFIX)

## deb, rpm, tarball: packages in .build/packages, built from this checkout
deb: build
	packaging/deb/build $(VERSION) $(REVISION) $(PACKAGES)

rpm: build
	rpm/build $(VERSION) $(REVISION) $(PACKAGES)

tarball: deps
	packaging/tarball $(VERSION) $(PACKAGES) $(SWIFT) build $(RELEASE) --product bpftune

## sign: with the key KEY: signed rpm, checksums, detached signatures
sign:
	packaging/sign "$(KEY)" $(PACKAGES)

## demo: two namespaces, a long path, small buffers; before and after
demo: deps
	$(SWIFT) build --configuration release
	.build/release/bpftune-demo

## bench: measure the daemon; BENCH="latency --json" picks a group or the format
bench: deps
	$(SWIFT) build $(RELEASE)
	.build/release/bpftune-bench $(BENCH)

## test-vm: the integration tests on Debian's kernels; KERNEL= and TESTS= choose
test-vm: deps
	Tests/vm/suite

## new-tuner: lay out the files of a new tuner; NAME=its-name
new-tuner:
	@scripts/new-tuner "$(NAME)"

## check-new-tuner: what new-tuner lays out compiles and passes its tests
check-new-tuner: deps
	scripts/check-new-tuner

## test-service: the deb under a systemd of its own, in a container
test-service: deb
	Tests/service/service

## test-packages: rpm, tarball, signatures, bill of materials, the same bytes again
test-packages: deb rpm tarball
	Tests/service/packages
	Tests/service/reproducible

## test-arm64: the BPF objects and the C parts, compiled for it
test-arm64: deps
	Tests/service/arm64

## test-bare: make run and make test on a bare Debian with nothing but Swift, git and make
test-bare:
	Tests/service/bare

## lint: formatting, man pages, shell scripts
lint: deps
	$(SWIFT) format lint --strict --recursive Sources Tests Plugins Package.swift
	mandoc -T lint -W warning man/*.[358]
	shellcheck Samples/build Tests/Modules/build
	shellcheck .ci/run scripts/deps scripts/new-tuner scripts/check-new-tuner \
		Tests/vm/run Tests/vm/init Tests/vm/suite Tests/vm/kernels
	shellcheck packaging/install packaging/tarball packaging/sign packaging/deb/build \
		packaging/deb/*inst packaging/deb/*rm rpm/build
	cd Tests/service && shellcheck -x lib tree service packages reproducible arm64 bare
	perl -c packaging/sbom

## deps: install the libraries and tools that are missing, by apt or dnf
deps:
	@scripts/deps

clean:
	rm -rf .build
