# One image for the sidecar, the control plane and the echo upstream: `docker build -t envoy-usage-plans .`
#
# Wheels in deploy/compose/wheels are installed instead of the package index's, so that it builds without one: all of
# this project's dependencies, for this Python, and what its build needs (hatchling).
ARG PYTHON=3.13-slim-trixie

FROM python:${PYTHON} AS build
WORKDIR /build
COPY deploy/compose/wheels wheels
COPY pyproject.toml README.md ./
COPY authz authz
# The environment has no pip of its own: nothing is installed into a container that runs.
RUN set -eu; \
    if ls wheels/*.whl >/dev/null 2>&1; then from="--no-index --find-links=wheels"; else from=; fi; \
    python -m venv --without-pip /opt/authz; \
    python -m pip --python /opt/authz/bin/python install --no-cache-dir --disable-pip-version-check $from .

FROM python:${PYTHON}
LABEL org.opencontainers.image.title="envoy-usage-plans" \
      org.opencontainers.image.description="Usage plans for any Envoy: API keys, throttles and quotas" \
      org.opencontainers.image.licenses="Apache-2.0"
COPY --from=build /opt/authz /opt/authz
COPY deploy/compose/healthy /usr/local/bin/healthy
ENV PATH=/opt/authz/bin:$PATH PYTHONUNBUFFERED=1
USER 10001:10001
STOPSIGNAL SIGTERM
EXPOSE 50051 9190 8085 9191
# Of `authz serve`, whose --http-listen then has to be 0.0.0.0:9190 or 127.0.0.1:9190.
HEALTHCHECK --interval=5s --timeout=3s --start-period=10s CMD ["healthy", "9190/readyz"]
ENTRYPOINT ["authz"]
CMD ["serve"]
