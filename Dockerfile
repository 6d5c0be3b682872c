# syntax=docker/dockerfile:1
# One binary on a base without a shell, run by an unprivileged user.
#   docker build -t syncline .

FROM rust:1.95-slim-bookworm AS build
WORKDIR /src
COPY . .
# The caches survive between builds, so the binary is copied out of them in the same step.
RUN --mount=type=cache,target=/usr/local/cargo/registry \
    --mount=type=cache,target=/src/target \
    cargo build --release --locked --bin syncline \
    && install -D target/release/syncline /out/usr/local/bin/syncline \
    && strip /out/usr/local/bin/syncline \
    && mkdir -p /out/data

# glibc, libgcc, CA certificates and time zones; no shell, no package manager. User 65532.
FROM gcr.io/distroless/cc-debian12:nonroot
COPY --from=build --chown=65532:65532 /out/data /data
COPY --from=build /out/usr/local/bin/syncline /usr/local/bin/syncline

# All interfaces of the container; the second is for operators and is not to be published.
ENV SYNCLINE_SERVER__LISTEN=0.0.0.0:8080 \
    SYNCLINE_SERVER__ADMIN_LISTEN=0.0.0.0:9090 \
    SYNCLINE_STORE__URL=sqlite:/data/syncline.db \
    SYNCLINE_LOG__FORMAT=json
WORKDIR /data
VOLUME /data
EXPOSE 8080 9090
# A drain takes up to `server.drain_deadline`, 25 s: give `docker stop` a little more (-t 30).
STOPSIGNAL SIGTERM
HEALTHCHECK --interval=5s --timeout=3s --start-period=15s --retries=3 CMD ["syncline", "health"]
ENTRYPOINT ["syncline"]
CMD ["serve"]
