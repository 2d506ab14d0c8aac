-- The body of the uploads that throughput.py measures.
wrk.method = "POST"
wrk.body = string.rep("x", tonumber(os.getenv("BODY")))
